"""tools/predict.py, against the model applied to the pictures one by one."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from conftest import ROOT
import example_images
from mixer.data import class_names
from mixer.data import image_paths
from mixer.data import normalize
from mixer.data import preprocess
from mixer import models
from mixer.run import plots
from mixer import weights as weights_lib
from mixer.weights import inference
from test_export import tiny
from tools import predict


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with a tiny model's file, class names, and seven images of several sizes in two folders."""
  root = tmp_path_factory.mktemp('predict')
  weights_lib.save(tiny(), root / 'tiny.npz')
  (root / 'names.txt').write_text(''.join(f'class, {10**k}\n' for k in range(10)))
  rng = np.random.default_rng(0)
  for k, suffix in enumerate(('png', 'PNG', 'png', 'webp', 'png', 'png', 'png')):
    path = root / 'images' / ('inner' if k % 2 else '.') / f'{k}.{suffix}'
    path.parent.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 256, (3, 4, 3), np.uint8)
    options = {'lossless': True} if suffix == 'webp' else {}
    PIL.Image.fromarray(small).resize((20 + k, 40 - 3 * k)).save(path, **options)
  (root / 'images/notes.txt').write_text('no image')
  return root


def expected_of(path, crop='antialiased', resize=16):
  """The probabilities of one image, from its file. -> [K]."""
  weights = tiny()
  image = preprocess.EVALUATION_CROPS[crop](preprocess.decode(tf.io.read_file(str(path))), resize, 16).numpy()
  logits = np.asarray(models.build(**weights.model).apply({'params': weights.params}, normalize.normalize_images(image[None])))[0]
  return np.exp(logits) / np.exp(logits).sum()


def run(folder, *arguments, code=0):
  assert predict.main([f'--weights={folder / "tiny.npz"}', *map(str, arguments)]) == code


def rows(text):
  return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
@pytest.mark.parametrize('crop', ['paper_resize', 'paper_crop', 'antialiased', 'timm'])
def test_csv_has_the_best_classes_of_each_image_in_order(folder, capsys, crop):
  images = [folder / f'images/{name}' for name in ('4.png', 'inner/1.PNG', '0.png', '4.png', 'inner/3.webp')]
  run(folder, *images, '--format=csv', '--top=3', f'--preprocessing={crop}', '--batch_size=2')
  output = capsys.readouterr()
  got = rows(output.out)
  assert [row['image'] for row in got] == [str(image) for image in images for _ in range(3)]
  assert [row['rank'] for row in got] == ['1', '2', '3'] * 5
  for k, image in enumerate(images):
    of_image, probabilities = got[3 * k:3 * k + 3], expected_of(image, crop, resize=16 if crop == 'antialiased' else 18)
    best = np.argsort(-probabilities)[:3]
    assert [int(row['class']) for row in of_image] == best.tolist()
    # Of two in a thousand values, float32's last bit decides on a level: tests/test_crops.py.
    np.testing.assert_allclose([float(row['probability']) for row in of_image], probabilities[best], rtol=1e-2)
  assert 'tiny.npz' in output.err and '10 classes' in output.err


def test_resize_is_the_side_before_the_crop(folder, capsys):
  run(folder, folder / 'images/0.png', '--format=csv', '--top=1', '--resize=18')
  got, = rows(capsys.readouterr().out)
  of_whole, of_centre = expected_of(folder / 'images/0.png'), expected_of(folder / 'images/0.png', resize=18)
  assert float(got['probability']) == pytest.approx(of_centre.max(), rel=1e-4)
  assert abs(of_whole.max() - of_centre.max()) > 1e-3
  with pytest.raises(SystemExit, match='--resize is 15, smaller than the crop'):
    run(folder, folder / 'images/0.png', '--resize=15')


def test_how_images_are_resized_is_reported(folder, capsys):
  run(folder, folder / 'images/0.png')
  assert '10 classes, 16 x 16 pixels, antialiased from 16: ' in capsys.readouterr().err  # a file of no published size
  run(folder, folder / 'images/0.png', '--preprocessing=paper_crop', '--resize=20')
  assert '10 classes, 16 x 16 pixels, paper_crop from 20: ' in capsys.readouterr().err


def test_the_batch_size_changes_nothing(folder, capsys):
  outputs = []
  for size in (1, 3, 7, 32):
    run(folder, folder / 'images', '--format=jsonl', '--top=10', f'--batch_size={size}')
    outputs.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
  images = [str(folder / 'images' / name) for name in ('0.png', '2.png', '4.png', '6.png', 'inner/1.PNG', 'inner/3.webp',
                                                     'inner/5.png')]
  for each in outputs:
    assert [line['image'] for line in each] == images
    for line, first in zip(each, outputs[0]):
      assert [p['class'] for p in line['predictions']] == [p['class'] for p in first['predictions']]
      np.testing.assert_allclose([p['probability'] for p in line['predictions']],
                                 [p['probability'] for p in first['predictions']], rtol=1e-5)
      assert sum(p['probability'] for p in line['predictions']) == pytest.approx(1)


def test_one_program_is_compiled_whatever_the_last_batch(folder):
  batches = list(image_paths.path_batches(
      [str(folder / 'images/0.png')] * 5, batch_size=3, resolution=16, resize=18, crop='timm', failed=None))
  assert [batch['image'].shape for batch in batches] == [(3, 16, 16, 3)] * 2
  assert [batch['index'].tolist() for batch in batches] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize('place', [0, 2, 5])
def test_a_file_that_cannot_be_decoded_is_named_and_skipped(folder, tmp_path, capsys, place):
  broken, missing = tmp_path / 'broken.png', tmp_path / 'missing.png'
  broken.write_bytes((folder / 'images/0.png').read_bytes()[:60])
  bomb = tmp_path / 'bomb.webp'
  bomb.write_bytes(example_images.claiming('lossless webp', 16_000, 16_000))
  good = [str(folder / 'images/0.png')] * 5
  images = [*good[:place], str(broken), str(missing), str(bomb), *good[place:]]
  run(folder, *images, '--format=csv', '--top=1', '--batch_size=2', code=1)
  output = capsys.readouterr()
  assert [row['image'] for row in rows(output.out)] == good
  assert len(re.findall(f'^cannot decode {broken}: .+', output.err, re.M)) == 1
  assert len(re.findall(f'^cannot decode {missing}: .*No such file', output.err, re.M)) == 1
  assert len(re.findall(f'^cannot decode {bomb}: its header claims 256000000 pixels', output.err, re.M)) == 1
  assert '3 of 8 images could not be decoded' in output.err


def test_the_table_is_aligned_and_class_names_come_from_a_file(folder, capsys):
  run(folder, folder / 'images/0.png', folder / 'images/inner/1.PNG', '--top=2', f'--class_names={folder / "names.txt"}')
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5 and len({len(line) for line in lines}) == 1
  assert {line.index('class') for line in lines} == {lines[0].index('class')}
  expected = expected_of(folder / 'images/0.png')
  _, *name, probability = lines[1].split()[:4]
  assert name == ['class,', str(10**expected.argmax())] and re.fullmatch(r'\d+\.\d\d%', probability)
  # TensorFlow resizes; on some CPUs a few of its pixels round otherwise.
  assert float(probability[:-1]) / 100 == pytest.approx(expected.max(), abs=1e-3)
  assert lines[2].startswith(' ' * len(str(folder)))


def of_imagenet(folder, tmp_path):
  """Flags that name the ten classes by the first WordNet ids of ImageNet-1k, and the words of the image's best class."""
  ids, words = zip(*list(class_names.synonyms(1000).items())[:10])
  (tmp_path / 'ids.txt').write_text('\n'.join(ids))
  best = expected_of(folder / 'images/0.png').argmax()
  return [folder / 'images/0.png', f'--class_names={tmp_path / "ids.txt"}', '--top=1'], ids[best], words[best].split(',')[0]


def test_classes_of_imagenet_are_shown_in_words_with_the_id_beside_them(folder, tmp_path, capsys):
  flags, wordnet_id, word = of_imagenet(folder, tmp_path)
  run(folder, *flags)
  assert f'  {word} ({wordnet_id})  ' in capsys.readouterr().out
  run(folder, *flags, '--format=csv')
  row, = rows(capsys.readouterr().out)
  assert (row['id'], row['name']) == (wordnet_id, word)
  run(folder, *flags, '--format=jsonl')
  best, = json.loads(capsys.readouterr().out)['predictions']
  assert (best['id'], best['name']) == (wordnet_id, word)


def test_the_picture_has_words(folder, tmp_path, monkeypatch):
  flags, _, word = of_imagenet(folder, tmp_path)
  drawn = {}
  monkeypatch.setattr(plots, 'grid', lambda images, texts, title, path: drawn.update({path: texts}))
  run(folder, *flags, '--draw=drawn.png')
  assert re.fullmatch(rf'\d+% {word}', drawn['drawn.png'][0])


def test_class_names_that_do_not_fit_the_model_are_refused(folder, tmp_path):
  (tmp_path / 'nine.txt').write_text('name\n' * 9)
  with pytest.raises(SystemExit, match='nine.txt has 9 lines, and the model has 10 classes; it must name each class'):
    run(folder, folder / 'images', f'--class_names={tmp_path / "nine.txt"}')


@pytest.mark.parametrize('draw, message', [('x.xyz', r'--draw is x\.xyz; it must end in one of .*\.png'),
                                        ('none/x.png', '--draw is none/x.png, but the folder none does not exist'),
                                        ('folder.png', '--draw is .*folder.png, which is a folder; expected a file')])
def test_a_picture_that_cannot_be_drawn_is_refused_beforehand(folder, tmp_path, capsys, draw, message):
  (tmp_path / 'folder.png').mkdir()
  with pytest.raises(SystemExit, match=f'^error: {message}'):
    run(folder, folder / 'images', f'--draw={tmp_path / draw if draw == "folder.png" else draw}')
  assert not capsys.readouterr().out


@pytest.mark.parametrize('raised, code', [(OSError('disk full'), 'error: disk full'), (KeyboardInterrupt(), 130)])
def test_errors_on_the_way_end_in_one_line(folder, monkeypatch, raised, code):
  def fails(*arguments, **fields):
    raise raised
  monkeypatch.setattr(inference.Inference, 'predict_paths', fails)
  with pytest.raises(SystemExit) as error:
    run(folder, folder / 'images')
  assert error.value.code == code
  with pytest.raises(type(raised)):
    run(folder, folder / 'images', '--debug')


def test_mean_and_std_are_those_of_the_flags(folder, tmp_path, capsys):
  weights_lib.timm.write(tiny().params, tmp_path / 'w.safetensors')
  assert predict.main([f'--weights={tmp_path / "w.safetensors"}', '--mean=0', '--std=1,1,1', '--format=csv', '--top=10',
                       '--preprocessing=paper_resize', str(folder / 'images/0.png')]) == 0
  output = capsys.readouterr()
  assert 'pixels of mean 0, std 1 (as set)' in output.err
  image = preprocess.EVALUATION_CROPS['paper_resize'](
      preprocess.decode(tf.io.read_file(str(folder / 'images/0.png'))), 18, 16).numpy()
  logits = np.asarray(models.build(**tiny().model).apply({'params': tiny().params}, image[None] / np.float32(255)))[0]
  expected = np.exp(logits) / np.exp(logits).sum()
  got = {int(row['class']): float(row['probability']) for row in rows(output.out)}
  np.testing.assert_allclose([got[k] for k in range(10)], expected, rtol=1e-4)


def test_draw_makes_a_picture_of_the_images(folder, tmp_path, capsys):
  run(folder, folder / 'images', f'--draw={tmp_path / "drawn.png"}')
  picture = np.asarray(PIL.Image.open(tmp_path / 'drawn.png').convert('RGB'))
  assert picture.shape[1] > 900 and len(np.unique(picture)) > 50


class Stdin(io.StringIO):
  isatty = lambda self: False


class Terminal(io.StringIO):
  isatty = lambda self: True


def test_paths_come_from_folders_and_from_stdin(folder):
  images = str(folder / 'images')
  of_folder = predict.find([images], Terminal())
  assert [os.path.relpath(path, images) for path in of_folder] == [
      '0.png', '2.png', '4.png', '6.png', 'inner/1.PNG', 'inner/3.webp', 'inner/5.png']
  assert predict.find(['x.jpg', '-', images], Stdin('a b.png\n\nc.png\n')) == ['x.jpg', 'a b.png', 'c.png', *of_folder]
  assert predict.find([], Stdin('a.png\n')) == ['a.png']


def test_a_device_is_refused_since_it_may_have_no_end():
  with pytest.raises(ValueError, match='^/dev/zero is a device or a pipe, which is not read'):
    predict.find(['/dev/zero'], Terminal())


@pytest.mark.parametrize('url', ['https://x.org/a.jpg', 'HTTP://x.org/a', 'file:///a.jpg', 's3://b/a.jpg', 'data:image/png;base64,'])
def test_a_url_is_refused_with_what_to_do(url):
  for arguments, stdin in ([url], ''), (['-'], f'a.jpg\n{url}\n'):
    with pytest.raises(ValueError, match=rf'^{re.escape(url)} is a URL, which is not fetched; download it first \(curl -O URL'):
      predict.find(arguments, Stdin(stdin))
  assert predict.find(['gs://b/a.jpg', 'C:a.jpg', 'scan:1.jpg'], Terminal()) == ['gs://b/a.jpg', 'C:a.jpg', 'scan:1.jpg']


@pytest.mark.parametrize('content', [example_images.file(kind) for kind in ('png', 'jpeg', 'gif')] + [b'a.jpg\0b.jpg\0'])
@pytest.mark.parametrize('errors', ['strict', 'surrogateescape'])
def test_an_image_on_stdin_is_refused_with_what_stdin_is_for(content, errors):
  stdin = io.TextIOWrapper(io.BytesIO(content), 'utf-8', errors)
  with pytest.raises(ValueError, match='stdin must list paths, one per line, and these bytes are none: pass the path of an image'):
    predict.find(['-'], stdin)


def test_no_images_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='no images: pass files, folders, or - for a list of paths on stdin'):
    predict.find([], Terminal())
  with pytest.raises(ValueError, match='no images: stdin lists none'):
    predict.find([], Stdin('\n'))
  with pytest.raises(ValueError, match=f'{tmp_path} holds no images: no file below it ends in .jpg'):
    predict.find([str(tmp_path)], Terminal())


@pytest.mark.parametrize('flag, message', [('--top=0', "'0' must be an integer of at least 1"),
                                        ('--format=xml', "invalid choice: 'xml' (choose from"),
                                        ('--preprocessing=crop', "invalid choice: 'crop' (choose from"),
                                        ('--weigths=x', 'unknown flag --weigths; did you mean --weights?')])
def test_wrong_flags_are_refused(folder, capsys, flag, message):
  with pytest.raises(SystemExit):
    run(folder, 'a.png', flag)
  assert message in capsys.readouterr().err


def test_the_command_reads_paths_from_a_pipe_and_writes_nothing_but_predictions_to_stdout(folder, tmp_path):
  (tmp_path / 'broken.png').write_bytes(b'no image')
  listed = f'{folder / "images/0.png"}\n{tmp_path / "broken.png"}\n{folder / "images/2.png"}\n'
  done = subprocess.run([sys.executable, '-m', 'tools.predict', f'--weights={folder / "tiny.npz"}', '--format=jsonl'],
                        cwd=ROOT, input=listed, capture_output=True, text=True)
  assert done.returncode == 1
  assert [json.loads(line)['image'] for line in done.stdout.splitlines()] == listed.splitlines()[::2]
  assert f'cannot decode {tmp_path / "broken.png"}: ' in done.stderr and '1 of 3 images' in done.stderr
