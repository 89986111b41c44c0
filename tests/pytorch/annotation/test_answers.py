"""Parse answers of a language model in every format that language models use."""

import pytest

from ttm_jax.pytorch.annotation import answers, texts
from ttm_jax.pytorch.annotation.rejection import Reject

PLAIN = 'Motion-specific prompt: "The dog runs to the left."'
MOTIONS = {
  'plain': PLAIN,
  'chatter': f'Sure!\n\n{PLAIN}\n\nLet me know if you need anything else.',
  'case and emphasis': 'motion-specific Prompt: **The dog  runs to the left.**\nCaption: x',
  'bold mark': '**Motion-specific prompt:** "The dog runs to the left."',
  'bold mark, colon outside': '**Motion-specific prompt**: *The dog runs to the left.*',
  'heading': '### Motion-specific prompt\n\nThe dog runs to the left.',
  'next line': 'Motion-specific prompt:\n\u201cThe dog runs to the left.\u201d\n',
  'two lines': 'Motion-specific prompt: "The dog runs\nto the left."',
  'no mark': 'The dog runs to the left.',
  'no mark, quoted': ' "The dog runs to the left."',
  'no mark, then an example': ' "The dog runs to the left."\n\nCaption: A cat.\n'
  + PLAIN[:-9]
  + 'up"',
  'no mark, after chatter': 'Sure! Here\'s the sentence:\n\n- "The dog runs to the left."\n\nBye.',
  'no mark, chatter on the line': 'Certainly! Here is the prompt: "The dog runs to the left."',
  'another label': 'Motion prompt: The dog runs to the left.',
  'answer': 'Answer: "The dog runs to the left."',
  'caption repeated': f'Caption: A dog runs.\n{PLAIN}',
  'the format first': f'I answer with Motion-specific prompt: "..." as asked.\n{PLAIN}',
  'examples after': f'{PLAIN}\n\nCaption: A cat.\nMotion-specific prompt: "The cat sits."',
  'fence': f'```text\n{PLAIN}\n```',
  'code': 'Motion-specific prompt: `The dog runs to the left.`',
  'JSON': '```json\n{"Motion-specific prompt": "The dog runs to the left."}\n```',
  'thinking': f'<think>\nMotion-specific prompt: "Hm."\n</think>\n\n{PLAIN}',
  'thinking that began in the prompt': f'Hm, the dog.\n</think>\n{PLAIN}',
  'channels': f'analysisThe caption names a dog.assistantfinal{PLAIN}',
  'bullet': f'- {PLAIN}',
  'numbers': f'1. {PLAIN}\n2. Motion-specific prompt: "The cat sits."',
  'quote sign': '> The dog runs to the left.',
  'typography': 'MOTION\u2011SPECIFIC PROMPT\uff1a \u00abThe dog runs to the left.\u00bb',
  'special tokens': f'{PLAIN}<|eot_id|>',
  'remark behind it': f'{PLAIN} (It leaves the color out.)',
}


@pytest.mark.parametrize('dress', MOTIONS)
def test_motion(dress):
  assert answers.parse_motion(MOTIONS[dress]) == 'The dog runs to the left.'


def test_quotation_marks_within_a_sentence_stay():
  said = 'The sign says "stop" and the man turns.'
  for text in (f'Motion-specific prompt: "{said}"', said):
    assert answers.parse_motion(text) == said


@pytest.mark.parametrize(
  'text',
  [
    '',
    'Motion-specific prompt:',
    'Motion-specific prompt: ""',
    'Motion-specific prompt: "..."',
    'Motion-specific prompt: None.',
    'I am sorry.',
    'I\u2019m sorry, but I cannot help with that.',
    'Unfortunately there is no caption.',
    'Sure! Here is the prompt:',
    '<think>The dog runs to the left',
    '7\x02',
    '...',
    '```\n```',
  ],
)
def test_no_motion(text):
  with pytest.raises(Reject, match='no motion prompt in the answer of the language model'):
    answers.parse_motion(text)


def test_endless_motion():
  with pytest.raises(Reject, match='is too long'):
    answers.parse_motion('The dog runs and ' * 20)


LISTED = '[[dog: a brown dog that runs] [left ball: a red ball]]'
OBJECTS = {
  'plain': f'Answer: {LISTED}',
  'spaces, commas, quotes': 'Here:\nanswer: [ [ dog : a  brown dog that runs ],'
  ' ["left ball": "a red ball"] ]\nCaption: x',
  'no outer brackets': f'Answer: {LISTED[1:-1]}\n\nI hope this helps [well].',
  'a line each': 'Answer: [\n  [dog: a brown dog that runs],\n  [left ball: a red ball],\n]',
  'examples after': f'Answer: {LISTED}\nAnswer: [[cat: a cat]]',
  'no mark': LISTED,
  'no mark, then an example': f' {LISTED}\n\nCaption: A cat.\nAnswer: [[cat: a cat]]',
  'no mark, after chatter': f'Of course [1]! Here are the objects:\n{LISTED}',
  'bold mark': f'**Answer:** {LISTED}',
  'bold everything': '**Answer**: [[**dog**: a brown dog that runs] [**left ball**: a red ball]]',
  'heading and fence': f'## Answer\n```\n{LISTED}\n```',
  'chatter after the mark': f'Answer: Here they are: {LISTED}',
  'sentence': f'The answer is: {LISTED}.',
  'caption repeated': f'Caption: A dog and a ball.\nAnswer: {LISTED}',
  'thinking': f'<think>Answer: [[cat: a cat]]</think>ANSWER: {LISTED}',
  'bullets': 'Answer:\n- [dog: a brown dog that runs]\n- [left ball: a red ball]',
  'bullets without brackets': 'Answer:\n* **dog**: a brown dog that runs\n'
  '* **left ball**: a red ball',
  'numbers': 'Objects:\n1. dog: a brown dog that runs\n2. left ball: a red ball',
  'numbers as names': 'Answer: [[object 1: dog: a brown dog that runs] [2: left ball: a red ball]]',
  'and': 'Answer: [dog: a brown dog that runs] and [left ball: a red ball]',
  'full width': LISTED.replace(':', '\uff1a'),
  'pairs in JSON': '```json\n[["dog", "a brown dog that runs"], ["left ball", "a red ball"]]\n```',
  'fields in JSON': '{"Answer": [{"name": "dog", "description": "a brown dog that runs"},'
  ' {"name": "left ball", "description": "a red ball"}]}',
  'an object in JSON': 'Answer: {"dog": "a brown dog that runs", "left ball": "a red ball"}',
  'texts in JSON': '["dog: a brown dog that runs", "left ball: a red ball"]',
}


@pytest.mark.parametrize('dress', OBJECTS)
def test_objects(dress):
  names, said = answers.parse_objects(OBJECTS[dress], 8)
  assert names == ('dog', 'left ball') and said == ('a brown dog that runs', 'a red ball')


@pytest.mark.parametrize(
  'text, reason',
  [
    ('', 'no list of objects'),
    ('There is a dog: it runs.', 'no list of objects'),
    ('Answer: a dog that runs', 'no list of objects'),
    ('Answer: none', 'no list of objects'),
    ('Some thoughts\n- dog: it runs', 'no list of objects'),
    ('Answer: {"a": 1}', 'no list of objects'),
    ('Answer: [[dog: a dog] [ball: a ba', 'the list of objects is truncated'),
    ('Answer: [[dog: a dog] [ball: a ball]', 'the list of objects is truncated'),
    ('[[dog: a dog', 'the list of objects is truncated'),
    ('[' * 5000, 'the list of objects is truncated'),
    ('Answer: [[dog: a dog] and a [ball: a ball]]', 'contains something other than objects'),
    ('Answer: [[dog] [ball: a ball]]', 'contains something other than objects'),
    ('Answer: [[dog: a [big] dog]]', 'contains something other than objects'),
    ('Answer: [[dog: ""]]', 'contains something other than objects'),
    ('Answer: [[...: ...]]', 'contains something other than objects'),
    ('Answer: [1, 2]', 'contains something other than objects'),
    ('Answer: [dog: a dog, ball: a red ball]', 'several objects within one pair of brackets'),
    ('Answer: [[object 1: a brown dog]]', 'an object has a number instead of a name'),
    ('Answer: []', 'no object in the list'),
    ('Answer: [[dog: a brown one] [Dog: a white one]]', 'two objects with the same name'),
    ('Answer: [[a: x] [b: x] [c: x] [d: x]]', 'too many objects'),
    (f'Answer: [[dog: {"very " * 80}big]]', 'is too long'),
  ],
)
def test_lists_that_are_none(text, reason):
  with pytest.raises(Reject, match=reason):
    answers.parse_objects(text, 3)


def test_captions_in_templates():
  said = 'A dog {x}\n[with] a\0 ball\ud800.\u2028It\x1b[31m runs \U0001f415\u200d\U0001f9ba.'
  wanted = 'A dog (x) (with) a ball . It (31m runs \U0001f415\u200d\U0001f9ba.'
  assert texts.for_slot(said) == wanted
