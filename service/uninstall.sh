#!/usr/bin/env bash
# Takes away what install.sh has put in place. Settings, and downloaded models, stay unless --purge is given.
#
#   sudo service/uninstall.sh [--purge] [--root DIR] [--dry-run]
#   service/uninstall.sh --user [--purge] [--dry-run]      of a checkout only the unit: the rest is yours
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source service/common.sh

prefix=/opt/vision-server
purge=''
read_options uninstall "$@"

[ -n "$user" ] || must_be_root
if [ -z "$root" ] && have_systemd; then
    for unit in vision-server.socket vision-server.service; do
        if control cat "$unit" >/dev/null 2>&1; then act control disable --quiet --now "$unit"; fi
    done
fi
if [ -n "$user" ]; then
    units=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    act rm -f "$units/vision-server.service"
    [ -z "$purge" ] || act rm -rf "${XDG_CONFIG_HOME:-$HOME/.config}/vision-server"
else
    act rm -f "$root/etc/systemd/system/vision-server.service" "$root/etc/systemd/system/vision-server.socket"
    # of a system below --root, what `systemctl enable` has made there
    act rm -f "$root/etc/systemd/system/multi-user.target.wants/vision-server.service" \
        "$root/etc/systemd/system/sockets.target.wants/vision-server.socket"
    act rm -rf "$root$prefix"
    if [ -n "$purge" ]; then
        act rm -rf "$root/etc/vision-server" "$root/var/cache/vision-server" "$root/var/lib/vision-server" \
            "$root/var/cache/private/vision-server" "$root/var/lib/private/vision-server"
    fi
fi
if [ -z "$root" ] && have_systemd; then act control daemon-reload; fi
finish 'removed'
