#!/usr/bin/env bash
# Installs vision-server as a systemd service, or updates what is there; again and again, with the same result.
#
#   sudo service/install.sh [options]    for the machine: the program in /opt/vision-server, a user of its own
#   service/install.sh --user            for you alone: your own manager runs it out of this checkout
#
#   --socket        start it with the first connection, not at boot
#   --no-start      put everything in place, start nothing
#   --root DIR      into another system, whose files lie in DIR (an image, say); nothing is started
#   --files-only    leave out the packages; with --root where that system has no Python yet
#   --dry-run       only say what would be done
#
# An existing /etc/vision-server/environment is kept. PYTHON names the interpreter, if not the first one found.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source service/common.sh

prefix=/opt/vision-server
socket='' start=1 files_only=''
read_options install "$@"

here=$PWD
if [ -n "$user" ]; then
    units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    config=${XDG_CONFIG_HOME:-$HOME/.config}/vision-server
    case $here in *[[:space:]%\"\'\\]*) die "systemd cannot take the path $here: move the checkout to one without blanks, quotes and %" ;; esac
    [ -n "$files_only" ] || act ./vision-server.sh --version
    act mkdir -p "$units" "$config"
    write 644 "$units/vision-server.service" sed "s#%h/vision-server#$here#g" service/systemd/user/vision-server.service
    place_environment "$config/environment"
else
    must_be_root
    # The program, without what an older version had and this one has not.
    act rm -rf "$root$prefix/vision_server"
    act install -d -m 755 "$root$prefix" "$root/etc/vision-server" "$root/etc/systemd/system"
    act cp -R vision_server "$root$prefix/vision_server"
    for file in LICENSE README.md constraints.txt pyproject.toml; do
        act install -m 644 "$file" "$root$prefix/$file"
    done
    act install -m 755 vision-server.sh "$root$prefix/vision-server.sh"
    act find "$root$prefix/vision_server" -name __pycache__ -prune -exec rm -rf '{}' +
    act chmod -R u=rwX,go=rX "$root$prefix/vision_server"
    if [ -z "$files_only" ]; then
        # umask: the service's user is another one, and must be able to read what is installed
        (umask 022; act inside env ${PYTHON:+"PYTHON=$PYTHON"} "$prefix/vision-server.sh" --version)
        act inside "$prefix/.venv/bin/python" -m compileall -q "$prefix/vision_server"
    fi
    # systemd starts nothing for a group that does not exist, and small systems lack `render`.
    groups=''
    for group in video render; do
        if [ -n "$files_only" ] || inside getent group "$group" >/dev/null 2>&1; then groups="$groups $group"; fi
    done
    write 644 "$root/etc/systemd/system/vision-server.service" \
        sed "s/^SupplementaryGroups=.*/SupplementaryGroups=${groups# }/" service/systemd/vision-server.service
    write 644 "$root/etc/systemd/system/vision-server.socket" cat service/systemd/vision-server.socket
    place_environment "$root/etc/vision-server/environment"
fi

[ -z "$root" ] || finish "in place below $root; enable it there with: systemctl enable vision-server"
[ -n "$start" ] || finish 'in place; nothing was started'
have_systemd || die "everything is in place, but systemd does not run here: start vision-server by other means"
act control daemon-reload
if [ -n "$socket" ]; then
    act control disable --quiet --now vision-server.service
    act control enable --quiet --now vision-server.socket
else
    [ -n "$user" ] || act control disable --quiet --now vision-server.socket
    act control enable --quiet vision-server.service
    act control restart vision-server.service
fi
finish "installed; $(control_words) status vision-server tells how it is"
