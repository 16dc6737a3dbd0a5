"""The evaluations and few-shot probes of a run."""

from collections.abc import Callable, Iterator

from mixer import configuration
from mixer.evaluators import classification
from mixer.evaluators import fewshot
from mixer.run import records


class Evaluators:
  """A config's evaluations and few-shot probes of a model's parameters.

  Attributes:
    metrics: the names of the metrics of which higher is better: 'test/top1', ...
    samples: {evaluation: its examples for a picture}, of the last call with `keep`.
  """

  def __init__(self, model, loss: str, evals: dict, probes: dict, settings: dict, prefetch: Callable, ema: bool = False):
    """Builds the scorer and the probes.

    Args:
      loss: the name of the training loss.
      evals: {evaluation: its batches, which have a `source`}.
      probes: {probe: (training batches, test batches)}.
      settings: {probe: its section of the config}.
      prefetch: sends batches to the devices.
      ema: whether an average of the parameters is evaluated, too.

    Raises:
      ValueError: if an evaluation or probe has the name of another one's results by the average.
    """
    for name in (*evals, *probes) if ema else ():
      if (taken := f'{name}{records.EMA}') in (*evals, *probes):
        raise ValueError(f'config has both {name} and {taken} among evals and probes; with step.ema, {taken} is the name of '
                         f'the results of {name} by the average of the weights; rename one')
    self._evals, self._probes, self._prefetch = evals, probes, prefetch
    self.scorer, self.samples = classification.Scorer(model, loss), {}
    self._probe = {name: _build_probe(name, settings[name], train.source, test.source, model)
                   for name, (train, test) in probes.items()}
    self.metrics = [f'{name}/{metric}' for name, batches in evals.items()
                    for metric in classification.metric_names(batches.source, model.num_classes)]
    self.metrics += [f'{name}/{metric}' for name, probe in self._probe.items() for metric in probe.metrics]
    if ema:
      self.metrics += list(map(records.of_average, self.metrics))

  def __call__(self, params, keep: bool = False, ema=None) -> dict[str, float]:
    """{'test/top1': ..., 'test/examples': ..., 'imagenet/5shot': ...}. Raises what the evaluators do.

    With `keep`, `samples` are set to those of this call. With `ema`, the average of the parameters, its results follow:
    'test_ema/top1' and so on.
    """
    results = {name: value for part in self.each(params, keep) for name, value in part.items()}
    of_ema = () if ema is None else self.each(ema)
    return results | {records.of_average(name): value for part in of_ema for name, value in part.items()}

  def each(self, params, keep: bool = False) -> Iterator[dict[str, float]]:
    """Yields the results of one evaluation or probe after the other."""
    for name, batches in self._evals.items():
      yield _prefixed(name, self.scorer(params, self._prefetch(batches), batches.source.num_examples, keep))
      if keep:
        self.samples[name] = self.scorer.sample
    for name, (train, test) in self._probes.items():
      yield _prefixed(name, self._probe[name](params, self._prefetch(train), self._prefetch(test),
                                              num_train=train.source.num_examples, num_test=test.source.num_examples))


def _prefixed(name, values):
  return {f'{name}/{key}': value for key, value in values.items()}


def _build_probe(name, section, train, test, model):
  if train.class_names is None:
    raise ValueError(f'config.probes.{name}: {train.name} has no classes to probe for')
  if list(train.class_names) != list(test.class_names or ()):
    raise ValueError(f'config.probes.{name}: the {len(train.class_names):,} classes of {train.name} and the '
                     f'{len(test.class_names or ()):,} of {test.name} are not the same')
  fields = {field: value for field, value in section.items() if field not in ('train', 'test')}
  return configuration.instantiate(fewshot.Probe, f'probes.{name}', fields, model=model,
                                   num_classes=len(train.class_names))
