"""Which addresses of media are passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucluster.labeling.addresses import is_allowed
from tests.helpers.injections import INJECTIONS

PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "host",
    [
        # names of this machine
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "loc\u034falhost",
        "\uff4cocalhos\uff54",
        # loopback, private, link-local, metadata of clouds, shared, multicast, none
        "127.0.0.1", "127.255.0.9", "127.0.0.1.", "10.0.0.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
        # the same in fewer numbers, in octal, hexadecimal and other digits
        "127.1", "127.0.1", "2130706433", "0", "0x7f000001", "0x7f.0.0.1", "0X7F.1", "0x",
        "017700000001", "0177.0.0.1", "010.0.0.1", "127.0.0.0x1", "127.0.0.1.0",
        "①②⑦.0.0.1", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "127%2e0.0.1", "999.1.1.1",
        "\U0001fbf1\U0001fbf2\U0001fbf7.0.0.1",
        # of IPv6: loopback, none, private, link-local, site-local, multicast, documentation
        "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]",
        "[fe80::1%25eth0]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]",
        # with an address of IPv4 in them: mapped, compatible, translated, 6to4, Teredo
        "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::ffff:8.8.8.8]", "[::127.0.0.1]",
        "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
        # names without a dot, which each network gives as it likes
        "redis", "minio", "host", "ip6-localhost", "xn--bcher-kva", "Metadata", "minio.",
        # ends of names that networks give themselves, in every spelling
        "metadata.google.internal", "METADATA.GOOGLE.INTERNAL.", "metadata.google.\uff49nternal",
        "metadata。google。internal", "gpu-7.internal", "host.docker.internal", "printer.local",
        "Printer.LOCAL", "redis.default", "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local", "router.lan", "nas.home", "nas.home.arpa",
        "wiki.corp", "wiki.intranet", "db.private", "localhost.localdomain", "a.b.localhost",
        "1.168.192.in-addr.arpa", "a.test", "a.invalid", "a.onion", "a.alt",
        # ends that no name in the open internet has
        "redis.kube-system", "gpu.node1", "a.b_c", "0x7f.x", "a.xn--", "a.1a",
        # what is no host
        "a..b", ".", "-.%", "a,b", "$HOST",
    ],
)  # fmt: skip
def test_no_document_reaches_into_this_machine_or_its_network(scheme: str, host: str) -> None:
    for rest in ("/latest/meta-data", ":8080/a.png", ":/a.png", "?a", "#a", ""):
        assert not is_allowed("image_url", f"{scheme}://{host}{rest}")
    for who in ("user", "example.org", "user:secret", ""):
        assert not is_allowed("image_url", f"{scheme}://{who}@{host}/a.png")


@pytest.mark.parametrize(
    "host",
    [
        "example.org", "example.org.", "EXAMPLE.org", "bücher.example", "例え.みんな",
        "xn--bcher-kva.example", "internal.example.org", "local.org", "svc.example",
        "a.localhost.org", "my_bucket.s3.amazonaws.com", "1.example", "0x7f.example",
        "localhost.org", "8.8.8.8", "93.184.215.14", "[2606:4700:4700::1111]", "127.0.0.1.example",
    ],
)  # fmt: skip
def test_names_and_public_addresses_are_passed_on(host: str) -> None:
    for rest in ("/a.png", ":8443/a.png", ""):
        assert is_allowed("image_url", f"https://{host}{rest}")


def test_only_images_are_written_into_their_address() -> None:
    assert is_allowed("image_url", PIXEL)
    assert not is_allowed("video_url", PIXEL)
    assert is_allowed("audio_url", "https://example.org/a.mp3")


@given(st.text() | st.sampled_from(INJECTIONS))
def test_no_text_is_an_address_of_a_file(text: str) -> None:
    for kind in ("image_url", "video_url", "audio_url"):
        if is_allowed(kind, text):
            assert text.startswith(("http://", "https://", "s3://", "data:image/", "HTTP", "Http"))
