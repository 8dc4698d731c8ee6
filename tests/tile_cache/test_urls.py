"""What is shown of an address, which hosts are local by any spelling, and where redirects may lead by name."""

import ipaddress

import pytest
import xyzservices.providers
from hypothesis import given
from hypothesis import strategies as st

from tile_cache.urls import (
    hidden,
    is_key_name,
    is_local,
    is_public,
    may_reach_private,
    redact_urls,
    redirect_refusal,
    shown_template,
)


@pytest.mark.parametrize(
    "name",
    [
        "key", "apikey", "api_key", "access-token", "access_token", "appid", "rapidapi-key", "subscription-key",
        "app_code", "X-Amz-Signature", "X-Amz-Credential", "AWSAccessKeyId", "sig", "tk", "password", "client_secret",
    ],
)  # fmt: skip
def test_names_of_keys_are_recognised(name):
    assert is_key_name(name)


@pytest.mark.parametrize(
    "name", ["style", "v", "format", "layers", "TILEMATRIXSET", "lang", "scale", "x", "y", "z", "g"]
)
def test_names_of_other_parameters_are_not_taken_for_keys(name):
    assert not is_key_name(name)


def test_every_token_of_xyzservices_stands_in_a_parameter_that_is_recognised():
    for name, provider in xyzservices.providers.flatten().items():
        tokens = [k for k, v in provider.items() if str(v).startswith("<insert")]
        for part in provider["url"].partition("?")[2].split("&"):
            parameter, _, value = part.partition("=")
            if value.strip("{}") in tokens:
                assert is_key_name(parameter), f"{name}: {parameter}"


@given(st.text(alphabet="abcXYZ0189-_.~%", min_size=6, max_size=20).filter(lambda s: s.strip("%.")))
def test_no_value_of_a_query_and_no_user_name_is_shown(secret):
    for url in (f"https://h.example/a?odd={secret}", f"https://h.example/a?{secret}", f"https://{secret}@h.example/a"):
        assert secret not in shown_template(url)
        assert secret not in redact_urls(f"GET {url} failed")


def test_placeholders_of_a_query_stay():
    assert hidden("x={x}&y={y}&z={z}&style=day&k={key}&") == "x={x}&y={y}&z={z}&style=***&k={key}&"
    assert shown_template("h/{z}?k=v#name=n") == "h/{z}?k=***"


@pytest.mark.parametrize(
    "secret",
    [
        "0123456789abcdef0123456789abcdef",
        "pk_9aZ-81x_Qwertyuiopasdf7",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3OD.a-9",
    ],
)
def test_parts_of_a_path_that_look_like_keys_are_hidden(secret):
    for place in (f"{secret}/{{z}}/{{x}}/{{y}}.png", f"v1/{secret}/4/10/6.png", f"tiles/{secret}"):
        url = f"https://h.example/{place}"
        assert shown_template(url) == url.replace(secret, "***")
        assert secret not in redact_urls(f"GET {url} failed")


@pytest.mark.parametrize(
    "path",
    [
        "wmts/BlueMarble_ShadedRelief_Bathymetry/default/GoogleMapsCompatible_Level8/{z}/{y}/{x}.jpg",
        "MODIS_Terra_CorrectedReflectance_TrueColor/default/2012-07-09/{z}/{y}/{x}",
        "4/10/6.png", "tiles/1.0.0/world@EPSG900913/{z}/{x}/{-y}.png",
    ],
)  # fmt: skip
def test_names_of_layers_in_a_path_are_shown(path):
    assert shown_template(f"https://h.example/{path}") == f"https://h.example/{path}"


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0",
        "0x7f.1", "127.0.0.1.", "[::1]", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "169.254.43518", "10.0.0.1",
        "fe80::1", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "100.64.0.1", "::", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_every_spelling_of_a_private_address_is_local(host):
    assert is_local(host)
    assert redirect_refusal("http", "h.example", "http", host) == "redirect into a private network"


@pytest.mark.parametrize("host", ["8.8.8.8", "134744072", "h.example", "2606:4700::1", "::ffff:8.8.8.8", "local", ""])
def test_public_hosts_are_not_local(host):
    assert not is_local(host)


@pytest.mark.parametrize("text", ["64:ff9b::808:808", "2002:808:808::", "::ffff:8.8.8.8"])
def test_addresses_that_embed_a_public_one_are_public(text):
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1", True),
        ("tiles", True),
        ("tiles.lan", True),
        ("nas.local.", True),
        ("h.example", False),
        ("", False),
    ],
)
def test_a_source_with_a_local_name_may_redirect_within_its_network(host, may):
    assert may_reach_private(host) is may
    assert (redirect_refusal("http", host, "http", "10.0.0.7") is None) is may
