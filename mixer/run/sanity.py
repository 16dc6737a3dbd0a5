"""Checks whether a finished run has learned anything: warnings for its last lines and its card."""

from collections.abc import Sequence
import math

LOWER_RATE = ('Lower the learning rate (config.optimizer.learning_rate), lengthen the warmup '
              '(config.optimizer.schedule.warmup_epochs) or clip the gradients (config.optimizer.clip_norm)')
CHECK_DATA = ('Look at the training images and labels with python -m tools.show_batch, train for more steps or with '
              'another learning rate')
CARD_PREFIX = '**Warning:** '  # of each warning on the card
NOISE = 1.1  # how much a loss may rise by chance: that of a pretrained model is low from the start


def warnings(records: Sequence[dict], results: dict, samples: dict, *, loss: str, num_classes: int,
             pretrained: bool) -> list[str]:
  """Warnings with advice; none for a run that has learned something.

  Args:
    records: of the whole run, with 'train/loss_mean'. The means of their first and last tenth are compared.
    results: of the final evaluation: {'test/top1': ...}.
    samples: of each evaluation by its name, with `classified` and `most_frequent`.
    loss: the name of the loss.
    pretrained: whether it started from weights.
  """
  losses = [record['train/loss_mean'] for record in records if 'train/loss_mean' in record]
  problems = []
  if losses:
    tenth = -(-len(losses) // 10)
    began, ended = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    uniform = math.log(num_classes)
    if len(losses) > 1 and ended > began * (NOISE if pretrained else 1):
      problems.append((f'The training loss is {ended:,.4g} at the end, above the {began:,.4g} of the beginning.',
                       LOWER_RATE))
    elif loss == 'softmax_xent' and num_classes > 1 and ended >= uniform:
      problems.append((f'The training loss is {ended:,.4g} at the end, and equal probabilities for all {num_classes:,} '
                       f'classes would give {uniform:,.4g}.', LOWER_RATE if ended > NOISE * uniform else CHECK_DATA))
  for name, sample in samples.items():
    score = next((results[f'{name}/{key}'] for key in ('top1', 'precision_at_1') if f'{name}/{key}' in results), None)
    chance = sample.most_frequent / sample.classified
    noise = math.sqrt(chance * (1 - chance) / sample.classified)  # one standard error
    if score is not None and chance < 1 and score <= chance + noise:
      problems.append((f'On {name} the accuracy is {score:.2%}, and always predicting the most frequent class would '
                       f'give {chance:.2%}: no better than chance.', CHECK_DATA))
  advice_so_far = lambda k: [advice for _, advice in problems[:k]]
  return [problem + f' {advice}.' * (advice not in advice_so_far(k)) for k, (problem, advice) in enumerate(problems)]
