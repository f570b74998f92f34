"""What may be fetched: the one parser of addresses, the list of hosts, and which network addresses are public.

A server that fetches what strangers name can be sent to its own machine and network (server-side request forgery). So
the parser knows one plain form and refuses all else, since two parsers that read an odd address differently are how a
check is passed; what it returns is what is connected to, and no other code reads the text again.

No network is touched here. Ranges: the IANA registries of special-purpose IPv4 and IPv6 addresses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urljoin

from ..errors import ImageRefused

_MAX_CHARACTERS = 4096
_SCHEME = re.compile(r"\s{0,64}(?!data:)[a-z][a-z0-9+.-]{0,20}:", re.IGNORECASE)
_FORM = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:/[^?#]*)?(?:\?[^#]*)?)(?:#.*)?",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")  # RFC 3986, section 2
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORTS = {"http": 80, "https": 443}

_NOT_PUBLIC_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
            *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
# Of IPv6 only global unicast is public at all. That leaves out ::1, ::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48,
# 100::/64, fc00::/7, fe80::/10, fec0::/10 and ff00::/8; within it 2001::/23 holds Teredo, 2002::/16 is 6to4, and two
# are for documentation.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


@dataclass(frozen=True)
class Address:
    """A parsed address. `host` is lower-case ASCII, without brackets; `target` is path and query as they are sent."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def is_address(text: str) -> bool:
    """Whether this is an address, of any scheme but `data:`, and not base64."""
    return _SCHEME.match(text) is not None


def parse(text: str) -> Address:
    """The address in the one form that is taken: http or https, a host in ASCII, perhaps a port, path and query.

    User names, backslashes, spaces, control characters, percent signs in the host, numbers that only some programs read
    as an IPv4 address, trailing dots and zones are all refused with ImageRefused.
    """
    found = _FORM.fullmatch(text) if len(text) <= _MAX_CHARACTERS and _PLAIN.fullmatch(text) else None
    if found is None:
        raise ImageRefused(
            "The picture's address is not taken: it must be a plain http or https address without user name, "
            "in ASCII (percent-encoded, host names as xn--...)."
        )
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else _PORTS[scheme]
    host = _host(found["host"].lower())
    if not 1 <= port <= 65535 or host is None:
        raise ImageRefused("The picture's address is not taken: its host or port is not written in the usual form.")
    target = found["target"]
    return Address(scheme, host, port, target if target.startswith("/") else f"/{target}")


def follow(base: Address, location: str) -> Address:
    """Where a redirect leads, read like any other address. Raises ImageRefused."""
    if not _PLAIN.fullmatch(location):  # before anything tidies it up
        raise ImageRefused("The picture's address leads on to another one that is not taken.")
    return parse(urljoin(base.url, location))


def host_pattern(text: str) -> str | None:
    """An entry of the list of hosts in its normal form, or None: a name, *.name or IP address, perhaps with a port."""
    wildcard, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    found = re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", rest.lower())
    host = _host(found[1]) if found else None
    if found is None or host is None or (wildcard and _is_ip(host)) or (found[2] and not 1 <= int(found[2]) <= 65535):
        return None
    return wildcard + (f"[{host}]" if ":" in host else host) + (f":{int(found[2])}" if found[2] else "")


def check_listed(address: Address, hosts: Collection[str]) -> None:
    """Raises ImageRefused unless one of `hosts` (each as `host_pattern` gives it) names the address's host and port.

    An entry without a port means the scheme's own; `*.example.org` means every name below it, and not itself.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    names = [host, *(f"*.{host[at + 1 :]}" for at, letter in enumerate(host) if letter == "." and not _is_ip(host))]
    ports = [f":{address.port}", *([""] if address.port == _PORTS[address.scheme] else [])]
    if not any(name + port in hosts for name in names for port in ports):
        raise ImageRefused("Pictures are not fetched from this host: send the picture itself, in base64.")


def is_public(ip: str) -> bool:
    """Whether a numeric address (without a zone) belongs to the public internet."""
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_UNICAST:
        return False
    return not any(parsed in network for network in _NOT_PUBLIC_V6)


def _host(text: str) -> str | None:
    """A host as it is compared and connected to; None for one that not everybody reads alike."""
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            return None
    labels = text.split(".")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):  # many programs read 127.1, 0x7f.1 and 2130706433 as IPv4
        return text if _is_ip(text) else None
    return text if len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) else None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True
