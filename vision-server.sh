#!/usr/bin/env bash
# Runs vision-server from a checkout. The first run makes .venv and installs; later runs only start.
#
#   ./vision-server.sh [flags]              serve (--help lists the flags)
#   ./vision-server.sh demo                 caption the bundled pictures with the embedded checkpoint
#   ./vision-server.sh evaluate --data FILE ask a checkpoint what you know the answers to; installs what that needs
#   ./vision-server.sh finetune DATA ...    teach a checkpoint from your own pictures; installs what that needs
#   ./vision-server.sh bulk SOURCE DEST ... ask it about a whole folder, tars, parquet, through Ray; installs that
#   ./vision-server.sh test [pytest args]   ruff, mypy and pytest; with arguments only pytest, from the checkout's root
#
# PYTHON names the interpreter that .venv is made with. Nothing is installed again until pyproject.toml or
# constraints.txt change. Written for bash 3.2, which macOS ships: no flock, no readlink -f, no ${var,,}.
set -u
CDPATH=
unset PYTHONHOME PYTHONPATH # they would put other packages before those of .venv

oldest='3, 10'
child=''
locked=''

say() { printf 'vision-server: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

unlock() {
    [ -z "$locked" ] || rm -f "$venv/.lock"
    locked=''
}

interrupted() {
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    exit "$1"
}

# Runs a command with its noise in the log. It runs in the background because bash acts on a signal only between
# foreground commands, and an install takes minutes.
quietly() {
    (cd -- "$root" && exec "$@") </dev/null >>"$log" 2>&1 &
    child=$!
    wait "$child"
    set -- $?
    child=''
    return "$1"
}

# The last line of the log that says something; pip explains itself above its hints and warnings.
last_words() {
    grep -vE '^[[:space:]]*($|WARNING|\[notice\]|\[end of output\]|hint:|note:)' "$log" 2>/dev/null | tail -n 1 |
        sed -e 's/^ *//' -e 's/^ERROR: //' -e 's/^error: //'
}

why() {
    local free_kib
    free_kib=$(df -Pk "$root" 2>/dev/null | awk 'NR == 2 { print $4 }')
    if grep -q 'No space left on device' "$log" 2>/dev/null || [ "${free_kib:-9999}" -lt 1024 ]; then
        printf 'the disk is full'
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|ConnectionResetError|Network is unreachable|Temporary failure in name resolution' "$log"; then
        printf 'the package index cannot be reached; check the network or the proxy'
    else
        last_words
    fi
}

# Sets $base to an interpreter that is new enough.
find_python() {
    local candidate version too_old=''
    if [ -n "${PYTHON-}" ]; then
        command -v -- "$PYTHON" >/dev/null 2>&1 || die "PYTHON names '$PYTHON', which is not a command"
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
    fi
    for candidate in "$@"; do
        base=$(command -v -- "$candidate" 2>/dev/null) || continue
        if version=$("$base" -c "import sys; print('%d.%d.%d' % sys.version_info[:3]); sys.exit(sys.version_info < ($oldest))" 2>/dev/null); then
            return
        fi
        [ -z "$version" ] || too_old="$candidate is $version"
    done
    [ -z "$too_old" ] || die "Python ${oldest/, /.} or newer is needed, and $too_old; install a newer one or name it: PYTHON=/path/to/python3"
    [ -z "${PYTHON-}" ] || die "PYTHON names '$PYTHON', which does not run as Python"
    die "no Python found; install Python ${oldest/, /.} or newer, or name it: PYTHON=/path/to/python3"
}

usable() {
    [ ! -e "$venv/.making" ] && [ -x "$python" ] &&
        "$python" -I -c "import sys, pip; sys.exit(sys.version_info < ($oldest))" 2>/dev/null
}

make_venv() {
    find_python
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$base has no venv module; on Debian and Ubuntu: apt install python3-venv"
    [ ! -e "$venv/pyvenv.cfg" ] || say 'making .venv anew: its Python is gone, too old or was never finished'
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} + || die "cannot clear $venv"
    : >"$venv/.making" || die "cannot write to $venv"
    quietly "$base" -m venv "$venv" || die "making .venv failed: $(why) (log: $log)"
    rm -f "$venv/.making"
}

# One launcher installs, another waits. The lock is a symlink to the owner's pid: made and named in one step.
lock() {
    local owner told=''
    mkdir -p "$venv" 2>/dev/null || die "cannot write to $root"
    until ln -s "$$" "$venv/.lock" 2>/dev/null; do
        owner=$(readlink "$venv/.lock") || {
            [ -w "$venv" ] || die "cannot write to $venv"
            continue
        }
        if kill -0 "$owner" 2>/dev/null || ps -p "$owner" >/dev/null 2>&1; then
            [ -n "$told" ] || say "waiting for the install that process $owner is doing"
            told=1
            sleep 1
        else
            rm -f "$venv/.lock"
        fi
    done
    locked=1
}

fresh() { [ -x "$venv/bin/vision-server" ] && [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$key" ]; }

# ensure base | train | ray | test: .venv holds that set of packages at the pinned versions.
ensure() {
    local what=$1 target=. sets=base
    key="$root $(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)"
    if fresh "$what" && usable; then return; fi
    case $what in
        train) target='.[train]' sets='base train' ;;
        ray) target='.[ray]' sets='base ray' ;;
        test) target='.[test]' sets='base train ray test' ;; # whose packages hold those of the others
    esac
    lock
    if ! fresh "$what" || ! usable; then
        usable || make_venv
        for what in $sets; do fresh "$what" || rm -f "$venv/.stamp-$what"; done
        say "installing into .venv; the first time takes minutes (log: $log)"
        : >"$log" || die "cannot write to $venv"
        quietly "$python" -m pip install --disable-pip-version-check --no-input -q -c constraints.txt -e "$target" ||
            die "the install failed: $(why) (log: $log)"
        for what in $sets; do printf '%s\n' "$key" >"$venv/.stamp-$what" || die "cannot write to $venv"; done
    fi
    unlock
}

case ${OSTYPE-} in msys* | cygwin*) die 'on Windows run vision-server.bat' ;; esac

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do
    link=$(readlink "$self")
    case $link in /*) self=$link ;; *) self=$(dirname -- "$self")/$link ;; esac
done
root=$(cd -- "$(dirname -- "$self")" && pwd -P) || die 'cannot find the directory this script lies in'
venv=$root/.venv
python=$venv/bin/python
log=$venv/install.log

trap unlock EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

if [ "${1-}" != test ]; then
    case ${1-} in
        evaluate | finetune) ensure train ;;
        bulk) ensure ray ;;
        *) ensure base ;;
    esac
    exec "$venv/bin/vision-server" ${1+"$@"}
fi

shift
ensure test
cd -- "$root" || die "cannot enter $root"
if [ $# -eq 0 ]; then
    "$python" -m ruff check . || die 'ruff check found faults'
    "$python" -m ruff format --check . || die 'some files are not formatted; run .venv/bin/ruff format'
    "$python" -m mypy || die 'mypy found faults'
fi
exec "$python" -m pytest ${1+"$@"}
