"""Whole images pass the checks; truncated, damaged or other files do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import image

from tile_cache.images import BadImageError, check_decodes, check_whole, image_size, sniff

KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_images_pass(kind):
    data = image(3, KINDS[kind], 64)
    assert sniff(data) == check_whole(data) == check_decodes(data) == kind
    assert image_size(data) == (64, 64)


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_image_is_refused(kind, share):
    data = image(3, KINDS[kind], 64)
    with pytest.raises(BadImageError):
        check_whole(data[: int(len(data) * share)])


@given(at=st.integers(8, 10**6), value=st.integers(1, 255))
def test_png_with_a_changed_byte_is_refused(at, value):
    data = bytearray(image(3, "PNG", 64))
    data[8 + at % (len(data) - 8)] ^= value
    with pytest.raises(BadImageError):
        check_whole(bytes(data))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data):
    with pytest.raises(BadImageError):
        check_decodes(data)


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_arbitrary_bytes_behind_magic_bytes_raise_bad_image_error(kind, data):
    head = image(3, KINDS[kind], 64)[:12]
    tail = {"jpg": b"\xff\xd9"}.get(kind, b"")
    with pytest.raises(BadImageError):
        check_decodes(head + data + tail)


def test_jpeg_with_trailing_zeros_passes():
    assert check_decodes(image(3, "JPEG") + bytes(100)) == "jpg"


def test_image_too_wide_for_a_tile_is_refused():
    with pytest.raises(BadImageError, match="over 4096 pixels"):
        check_decodes(image(0, "PNG", 4097))


@pytest.mark.parametrize("page", [b"<html>", b"\xef\xbb\xbf\n <!DOCTYPE html>", b"<?xml version='1.0'?><Error/>"])
def test_html_pages_are_reported_as_html(page):
    with pytest.raises(BadImageError, match="HTML instead of an image"):
        check_whole(page)
