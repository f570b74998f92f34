"""The table of hostile addresses, the list of hosts, and which network addresses are public."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from vision_server.errors import ImageRefused
from vision_server.fetching.address import Address, check_listed, follow, host_pattern, is_address, is_public, parse

# None of these is taken by the parser, whatever the list of hosts says. What an odd one means to other programs stands
# beside it.
HOSTILE = [
    "",
    "http:",
    "http://",
    "http:///etc/passwd",
    "//img.example/a.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "/etc/passwd",
    "../../etc/passwd",
    "C:\\Windows\\win.ini",
    "\\\\server\\share\\a.png",
    "ftp://img.example/a.png",
    "gopher://img.example:6379/_FLUSHALL",
    "dict://img.example:11211/stats",
    "javascript:alert(1)",
    "jar:http://img.example/a!/b",
    "http:img.example/a.png",
    "http:/img.example/a.png",
    "http:\\\\img.example\\a.png",
    "http://img.example\\@127.0.0.1/",  # the host is the first, or the second
    "http://127.0.0.1\\@img.example/",
    "http://img.example@127.0.0.1/",
    "http://user:password@img.example/",
    "http://img.example:80@127.0.0.1/",
    "http://a@b@img.example/",
    "http://[img.example]/",
    "http://[::1%25lo]/",
    "http://[fe80::1%eth0]/",
    "http://[::1]x/",
    "http://[::1/",
    "http://::1/",
    "http://[v1.a]/",
    "http://img.example:x/",
    "http://img.example:/",
    "http://img.example:0/",
    "http://img.example:65536/",
    "http://img.example:999999/",
    "http://img.example:+80/",
    "http://img.example:8_0/",
    "http://img.example:80:80/",
    "http://127.1/",  # 127.0.0.1
    "http://0177.0.0.1/",
    "http://0x7f.0.0.1/",
    "http://0x7f000001/",
    "http://127.0.0.0x1/",
    "http://2130706433/",
    "http://017700000001/",
    "http://127.0.0.01/",
    "http://256.256.256.256/",
    "http://1.2.3/",
    "http://1.2.3.4.5/",
    "http://127.0.0.1./",
    "http://img.example./",
    "http://.img.example/",
    "http://img..example/",
    "http://-img.example/",
    "http://img-.example/",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 127}example/",
    "http://img%2eexample/",
    "http://%31%32%37.0.0.1/",
    "http://img.example%00.evil.example/",
    "http://bücher.example/",
    "http://１２７.０.０.１/",  # noqa: RUF001  full-width digits, which IDNA makes 127.0.0.1
    "http://img。example/",  # an ideographic full stop, which IDNA makes a dot
    "http://①.example/",
    "http://img.exa\u00admple/",
    "http://img.example/ä.png",
    " http://img.example/",
    "http://img.example/ ",
    "http://img.example/a b.png",
    "http://img.example/\r\nHost: evil.example",
    "http://img.example/\na",
    "http://img.exam\tple/",
    "ht\ntp://img.example/",
    "http://img.example/\x00",
    "http://img.example\x00.evil.example/",
    "http://img.example/\x7f",
    "http://img.example/%",
    "http://img.example/%zz",
    "http://img.example/<a>",
    'http://img.example/"',
    "http://img.example/{a}",
    "http://img.example/a|b",
    "http://img.example/a^b`",
    "http://img.example/" + "a" * 4096,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_not_in_the_plain_form_is_refused(text: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        parse(text)
    assert "img.example" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://img.example", Address("http", "img.example", 80, "/")),
        ("HTTPS://IMG.Example/A.png", Address("https", "img.example", 443, "/A.png")),
        ("https://img.example:8443/a?b=c&d#e", Address("https", "img.example", 8443, "/a?b=c&d")),
        ("http://img.example?x", Address("http", "img.example", 80, "/?x")),
        ("http://img.example#@127.0.0.1/", Address("http", "img.example", 80, "/")),
        ("http://img.example/%2e%2e/%0d%0a@[x]", Address("http", "img.example", 80, "/%2e%2e/%0d%0a@[x]")),
        ("http://xn--bcher-kva.example/", Address("http", "xn--bcher-kva.example", 80, "/")),
        ("http://8.8.8.8/", Address("http", "8.8.8.8", 80, "/")),
        ("http://[2606:4700:0::1111]:81/", Address("http", "2606:4700::1111", 81, "/")),
        ("http://my_images.example/", Address("http", "my_images.example", 80, "/")),
    ],
)
def test_the_plain_form(text: str, address: Address) -> None:
    assert parse(text) == address


@given(st.text(alphabet=string.printable + "é。①\0", max_size=60).map(lambda text: "http://" + text))
def test_what_is_parsed_is_what_is_connected_to(text: str) -> None:
    """The client library reads our address as we do, and not one character of it differently."""
    try:
        address = parse(text)
    except ImageRefused:
        return
    url = URL(address.url, encoded=True)
    assert (url.scheme, url.raw_host, url.port, url.user) == (address.scheme, address.host, address.port, None)
    assert url.raw_path_qs == address.target
    assert parse(address.url) == address


def test_what_is_an_address_at_all() -> None:
    assert all(map(is_address, ("http://a", " HTTPS://a", "file:///a", "\nftp:a", "x:y")))
    assert not any(map(is_address, ("", "aGVsbG8=", "data:image/png;base64,aa", " DATA:;base64,aa", "a/b:c", "1:2")))


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("/b.png", Address("https", "img.example", 443, "/b.png")),
        ("c.png", Address("https", "img.example", 443, "/a/c.png")),
        ("//other.example/d", Address("https", "other.example", 443, "/d")),
        ("http://127.0.0.1/", Address("http", "127.0.0.1", 80, "/")),
    ],
)
def test_a_redirect_is_read_like_any_address(location: str, address: Address) -> None:
    assert follow(parse("https://img.example/a/b"), location) == address


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http:\\\\x", "/a b", "\thttp://127.1/", "http://a@b/", "ä"]
)
def test_a_redirect_to_anything_odd_is_refused(location: str) -> None:
    with pytest.raises(ImageRefused):
        follow(parse("https://img.example/a/b"), location)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("http://img.example/", True),
        ("https://img.example/", True),
        ("http://img.example:443/", False),  # an entry without a port is the scheme's own
        ("http://img.example:8080/", False),
        ("http://sub.img.example/", False),
        ("http://img.example.evil.example/", False),
        ("http://evilimg.example/", False),
        ("http://a.cdn.example/", True),
        ("http://a.b.cdn.example/", True),
        ("http://cdn.example/", False),
        ("http://evilcdn.example/", False),
        ("http://odd.example:8443/", True),
        ("http://odd.example/", False),
        ("http://8.8.8.8/", True),
        ("http://9.8.8.8/", False),
        ("http://[2606:4700::1]/", True),
        ("http://[2606:4700::2]/", False),
    ],
)
def test_only_listed_hosts_and_ports(text: str, listed: bool) -> None:
    entries = ("img.example", "*.cdn.example", "odd.example:8443", "8.8.8.8", "[2606:4700:0:0::1]")
    hosts = [pattern for entry in entries if (pattern := host_pattern(entry))]
    if listed:
        check_listed(parse(text), hosts)
    else:
        with pytest.raises(ImageRefused):
            check_listed(parse(text), hosts)


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "http://a.example", "a.example/", "a.*.example", "a*.example", "*.8.8.8", "*.1.1.1.1",
     "a.example:0", "a.example:", "a.example:99999", "127.1", "a b", "a.example.", "[::1", "*.[::1]", "*.*.example",
     "u@a.example"],
)  # fmt: skip
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    assert host_pattern(entry) is None


@pytest.mark.parametrize(
    "ip",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
        *("169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1"),
        *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b::808:808", "64:ff9b:1::1", "64:ff9b:1:ffff::a00:1", "100::1", "2001::1", "2001:0:4136:e378::1"),
        *("2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002::1", "2002:7f00:1::1", "2002:c0a8:101::"),
        *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1"),
        *("2606:4700::1%eth0", "4000::1", "localhost", "", "127.1", "0x7f000001", "2130706433", "8.8.8.8/32"),
    ],
)
def test_what_is_not_public(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "223.255.255.255",
                                "2606:4700::1111", "2a00:1450::1", "2003::1", "2400::1"])  # fmt: skip
def test_what_is_public(ip: str) -> None:
    assert is_public(ip)


@given(st.ip_addresses())
def test_nothing_is_public_that_python_knows_not_to_be(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(ip)):
        assert ip.is_global
        assert not any((ip.is_multicast, ip.is_private, ip.is_loopback, ip.is_link_local, ip.is_reserved))


@pytest.mark.parametrize("network", ["192.0.0.0/16", "100.0.0.0/8", "2001::/16", "64:ff9b::/32", "::/16"])
def test_the_borders_are_pythons_too(network: str) -> None:
    """Spread over networks that are partly public: here chance alone would not find the borders."""
    within = ipaddress.ip_network(network)
    step = max(within.num_addresses // 4096, 1)
    for at in range(0, within.num_addresses, step):
        assert within[at].is_global or not is_public(str(within[at])), within[at]
