"""What headers claim is what decoders make room for."""

import struct

import pytest
import tensorflow as tf

import example_images
from mixer.data import image_headers

OTHERS = [kind for kind in example_images.KINDS if kind not in ('jpeg', 'progressive jpeg', 'png')]


@pytest.mark.parametrize('kind', OTHERS)
def test_a_header_claims_what_the_decoder_gives(kind):
  image = tf.io.decode_image(example_images.file(kind), expand_animations=False)
  assert image_headers.pixels(example_images.file(kind)) == 30 * 40 == image.shape[0] * image.shape[1]


@pytest.mark.parametrize('kind', OTHERS)
@pytest.mark.parametrize('width, height', [(16_000, 16_383), (1, 16_000), (3, 1)])
def test_a_header_claims_whatever_it_says(kind, width, height):
  assert image_headers.pixels(example_images.claiming(kind, width, height)) == width * height


def test_a_bitmap_may_stand_on_its_head():
  assert image_headers.pixels(example_images.claiming('bmp', 70, -90)) == 6_300


def test_a_webp_with_more_in_it_claims_its_canvas():
  assert image_headers.pixels(example_images.animated('WEBP')) == 30 * 40
  canvas = b'RIFF????WEBPVP8X' + struct.pack('<II', 10, 2) + bytes([0x5f, 0xea, 0, 0x5f, 0xea, 0])
  assert image_headers.pixels(canvas) == 60_000**2


def test_all_frames_of_a_gif_count():
  data = example_images.animated('GIF')
  assert image_headers.pixels(data) == 3 * 30 * 40
  assert tf.io.decode_image(data, expand_animations=False).shape == (30, 40, 3)
  last = bytearray(data)
  place = data.rindex(b',\0\0\0\0' + struct.pack('<HH', 40, 30))
  last[place + 5:place + 9] = struct.pack('<HH', 60_000, 2)
  # Room is made for a canvas that holds each frame, the widest and the highest.
  assert image_headers.pixels(bytes(last)) == 60_000 * 30


@pytest.mark.parametrize('data', [
    b'', b'no image', b'\xff\x0a', example_images.file('jpeg'), example_images.file('png')])
def test_other_files_claim_nothing(data):
  assert image_headers.pixels(data) is None


@pytest.mark.parametrize('data', [*map(example_images.file, OTHERS), example_images.animated('GIF')],
                         ids=[*OTHERS, 'animated'])
def test_a_header_that_is_cut_off_claims_no_more(data):
  claims = [image_headers.pixels(data[:end]) for end in range(16, len(data))]
  assert claims == sorted(claims) and claims[0] == 0 and claims[-1] == image_headers.pixels(data)
