"""All tables and figures, and one page of them: index.html, tables.md, figures as SVG and PNG in --out.

  python -m paper RUNS... --out=runs/paper

RUNS are work directories of train.py, folders of them, and files of records (.jsonl; .json of tools.evaluate); those of
paper/ours are read in any case. Figures 5 to 7 are the pictures in --weights-pictures, by default the folder weights in
that of --out.
"""

import html
import pathlib
import shutil
import string

from mixer import storage
from paper import command_line
from paper import entries
from paper import figures
from paper import render
from paper import tables

PAGE = pathlib.Path(__file__).parent / 'page.html'
FIGURES = ('figure2_left', 'figure2_right', 'figure3', 'figure4')
ORDER = ('table1', 'figure2_left', 'figure2_right', 'figure2_right_table', 'table2', 'figure3', 'table3', 'throughput',
         'speeds', 'figure4', 'figure4_table', 'weights', 'table4', 'appendix_a', 'other_runs')
WEIGHTS = 'python -m tools.show_weights --weights=WEIGHTS --out={}'


def page(made: list[render.Table], drawn: list[figures.Figure], pictures: list[pathlib.Path], folder,
         collection) -> str:
  """The HTML: tables and figures in the paper's order, with our results, and the records at the end."""
  tables_by_key = {table.key: table for table in made}
  parts = []  # (address, title, HTML)
  for key in ORDER:
    # Without rows, the figure of the same runs says how to make some.
    if key in tables_by_key and not (key.startswith(FIGURES) and not tables_by_key[key].rows):
      parts.append((key, tables_by_key[key].title, render.web(tables_by_key[key])))
    parts += [(figure.key, figure.title, _figure(figure)) for figure in drawn
              if key in FIGURES and figure.key.startswith(key)]
    parts += [(key, 'Figures 5 to 7', _weights(pictures, folder))] if key == 'weights' else []
  # A table has whatever a figure shows.
  shown = entries.of([id for table in made for id in table.ids], collection, tables.configs_of(made))
  parts.append(('records', 'Records', entries.web(shown)))
  warnings = ''.join(f'<li>{html.escape(warning)}</li>' for warning in collection.warnings)
  return string.Template(PAGE.read_text()).substitute(
      contents=' '.join(f'<a href="#{key}">{html.escape(title.split(":")[0])}</a>' for key, title, _ in parts),
      warnings=f'<div class="warnings">Skipped:<ul>{warnings}</ul></div>' if warnings else '',
      body='\n'.join(part for *_, part in parts))


def _figure(figure: figures.Figure) -> str:
  title, caption = html.escape(figure.title), html.escape(figure.caption)
  if not figure.panels:
    return (f'<section id="{figure.key}"><h2>{title}</h2>\n<p>{caption}</p>\n'
            f'<p class="none">Nothing yet: <code>{html.escape(figure.missing)}</code></p></section>\n')
  links = ' '.join(f'<a href="#r-{id}">[{k}]</a>' for k, id in enumerate(figure.ids, 1))
  ours = f'<details><summary>{len(figure.ids)} records of ours</summary>{links}</details>' if links else ''
  kind = 'one' if figure.panels == 1 else 'many'
  return (f'<section id="{figure.key}"><h2>{title}</h2>\n<figure class="{kind}"><picture>'
          f'<source media="(max-width: 40rem)" srcset="{figure.key}_narrow.svg">'
          f'<img src="{figure.key}.svg" alt="{title}"></picture>\n'
          f'<figcaption>{caption} <a href="{figure.key}.svg">SVG</a> <a href="{figure.key}.png">PNG</a>'
          f'{ours}</figcaption></figure></section>\n')


def _weights(pictures, folder) -> str:
  command = html.escape(WEIGHTS.format(folder))
  picture = ('<figure><a href="weights/{0}.png"><img src="weights/{0}.png" alt="{0}"></a>'
             '<figcaption>{0}</figcaption></figure>')
  shown = ''.join(picture.format(html.escape(path.stem)) for path in pictures)
  body = f'<div class="weights">{shown}</div>' if shown else f'<p class="none">Nothing yet: <code>{command}</code></p>'
  return ('<section id="weights"><h2>Figures 5 to 7: weights as pictures</h2>\n<p>Units of the token-mixing MLPs, '
          'sorted by frequency with each followed by its nearest inverse (Figures 5 and 6), and filters of the stem '
          "(Figure 7). The paper's JFT-300M weights were not published; these are of the checkpoint that "
          f'passed to tools.show_weights.</p>\n{body}</section>\n')


def _pictures(source: pathlib.Path, out) -> list[pathlib.Path]:
  """The pictures of weights, copied to the page's folder if they are elsewhere."""
  pictures, target = sorted(source.glob('*.png')), pathlib.Path(out) / 'weights'
  if source.resolve() != target.resolve():
    target.mkdir(parents=True, exist_ok=True)
    for path in pictures:
      shutil.copyfile(path, target / path.name)
  return pictures


def main(arguments: list[str] | None = None):
  flags, collection = command_line.parse(__doc__, arguments, weights=True)
  folder = flags.weights_pictures or pathlib.Path(flags.out) / 'weights'
  if flags.weights_pictures and not folder.is_dir():
    raise FileNotFoundError(f'--weights-pictures is {folder}, which does not exist; make it with '
                            f'{WEIGHTS.format(folder)}')
  made, drawn = tables.all_tables(collection), figures.all_figures(collection)
  tables.write(made, collection, flags.out)
  figures.write(drawn, flags.out)
  storage.write(flags.out / 'index.html', page(made, drawn, _pictures(folder, flags.out), folder, collection))
  print(flags.out / 'index.html')


if __name__ == '__main__':
  command_line.run(main)
