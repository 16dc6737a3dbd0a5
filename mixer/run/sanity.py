"""Whether a finished run has learned anything: what its last lines and its card say if it has not."""

from collections.abc import Sequence
import math

LOWER = ('Lower the learning rate (config.optimizer.learning_rate), lengthen the warmup '
         '(config.optimizer.schedule.warmup_epochs) or clip the gradients (config.optimizer.clip_norm)')
LOOK = ('Look at the training images and labels with python -m tools.show_batch, train for more steps or with another '
        'learning rate')
ON_CARD = '**Warning:** '  # before each sentence
NOISE = 1.1  # by how much a loss varies: that of a run that started from weights begins low, and may have risen by it


def warnings(records: Sequence[dict], results: dict, samples: dict, *, loss: str, num_classes: int,
             pretrained: bool) -> list[str]:
  """Sentences for people, with what to try; none of a run that has learned something.

  Args:
    records: all of the run's, with 'train/loss_mean'. Its beginning and its end are the means of the first and the last
      tenth of them.
    results: of the final evaluation: {'test/top1': ...}.
    samples: of each evaluation by its name, with `classified` and `most_frequent`.
    loss: the name of the loss.
    pretrained: whether it started from weights.
  """
  losses = [record['train/loss_mean'] for record in records if 'train/loss_mean' in record]
  found = []
  if losses:
    tenth = -(-len(losses) // 10)
    began, ended = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    uniform = math.log(num_classes)
    if len(losses) > 1 and ended > began * (NOISE if pretrained else 1):
      found.append((f'The training loss is {ended:,.4g} at the end, above the {began:,.4g} of the beginning.', LOWER))
    elif loss == 'softmax_xent' and num_classes > 1 and ended >= uniform:
      found.append((f'The training loss is {ended:,.4g} at the end, and equal probabilities for all {num_classes:,} '
                    f'classes would give {uniform:,.4g}.', LOWER if ended > NOISE * uniform else LOOK))
  for name, sample in samples.items():
    score = next((results[f'{name}/{key}'] for key in ('top1', 'precision_at_1') if f'{name}/{key}' in results), None)
    chance = sample.most_frequent / sample.classified
    noise = math.sqrt(chance * (1 - chance) / sample.classified)  # one standard error
    if score is not None and chance < 1 and score <= chance + noise:
      found.append((f'On {name} the highest class is right for {score:.2%} of the images, and always the most frequent '
                    f'class would be for {chance:.2%}: no better than chance.', LOOK))
  advised = [advice for _, advice in found]
  return [fact + f' {advice}.' * (advice not in advised[:k]) for k, (fact, advice) in enumerate(found)]
