# shellcheck shell=bash
# What install.sh and uninstall.sh share; read by them, not run. They own the variables that are set here.
# shellcheck disable=SC2034

user='' root='' dry=''

say() { printf 'vision-server: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# read_options install|uninstall WORDS: sets user, root, dry and what else that script knows.
read_options() {
    local script=$1 word
    shift
    while [ $# -gt 0 ]; do
        word=$1
        shift
        case $script$word in
        *--user) user=1 ;;
        *--dry-run) dry=1 ;;
        *--root)
            [ $# -gt 0 ] || die '--root wants a folder'
            [ -d "$1" ] || die "there is no folder $1"
            root=$(cd -- "$1" && pwd -P)
            [ "$root" != / ] || root=''
            shift
            ;;
        install--socket) socket=1 ;;
        install--no-start) start='' ;;
        install--files-only) files_only=1 ;;
        uninstall--purge) purge=1 ;;
        *--help | *-h)
            sed -n '2,/^set /s/^# \{0,1\}//p' "service/$script.sh"
            exit 0
            ;;
        *) die "there is no option $word; --help lists them" ;;
        esac
    done
    [ -z "$user" ] || [ -z "$root$socket" ] || die '--user goes with neither --root nor --socket'
}
socket=''

must_be_root() {
    [ "$(id -u)" = 0 ] || [ -n "$root" ] || [ -n "$dry" ] || die 'this needs root: use sudo, or --user for you alone'
}

# The last words.
finish() {
    say "${dry:+nothing was done, without --dry-run: }$1"
    exit 0
}

# Does it, or says that it would.
act() {
    if [ -n "$dry" ]; then
        printf 'would run:' >&2
        printf ' %q' "$@" >&2
        printf '\n' >&2
    else
        "$@"
    fi
}

# write MODE FILE COMMAND...: what the command prints becomes the file, whole or not at all.
write() {
    local mode=$1 file=$2
    shift 2
    if [ -n "$dry" ]; then
        say "would write $file"
        return
    fi
    "$@" >"$file.new"
    chmod "$mode" "$file.new"
    mv -f "$file.new" "$file"
}

# Settings that somebody has made are kept.
place_environment() {
    [ -e "$1" ] || (umask 077; write 600 "$1" cat service/systemd/environment)
}

# Runs a command in the system that is installed into.
inside() {
    if [ -n "$root" ]; then chroot "$root" "$@"; else "$@"; fi
}

have_systemd() {
    [ -n "$dry" ] || { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }
}

control() { systemctl ${user:+--user} "$@"; }

control_words() { printf 'systemctl%s' "${user:+ --user}"; }
