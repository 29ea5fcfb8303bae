"""Writes tokenizer_parts.json: what the Python `tokenizers` library makes of texts with small tokenizers, each with a part that is easily read otherwise."""
import json
from pathlib import Path

from tokenizers import Tokenizer

TEXTS = ['a½b ²1① ٣4 12', 'a\ufeffb \ufeff c\u0085d', 'x<tok>y <tok> z<tok>', 'hi!! (a), b?!', "don't 'status', a", ' a  b ', 'été 桥 a😀b']
BYTES = [c for c in range(33, 127)] + [c for c in range(161, 173)] + [c for c in range(174, 256)]


def vocab():
    characters, extra = [], 0
    for byte in range(256):
        if byte in BYTES:
            characters.append(chr(byte))
        else:
            characters.append(chr(256 + extra))
            extra += 1
    words = {c: i for i, c in enumerate(characters)}
    merges = []
    for a, b in [('1', '2'), ('!', '!'), ('Â', '½'), ('Â', '²'), ('ï', '»'), ('Ġ', 'Ġ'), ('Ġ', 'a'), ('½', 'b')]:
        words[a + b] = len(words)
        merges.append(f'{a} {b}')
    return words, merges


def config(pre, added=(), decoder=None):
    words, merges = vocab()
    tokens = [{'id': len(words) + i, 'special': False, 'normalized': False, 'single_word': False, 'lstrip': False, 'rstrip': False, **token} for i, token in enumerate(added)]
    return {'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': tokens, 'normalizer': None, 'pre_tokenizer': pre, 'post_processor': None,
            'decoder': decoder or {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True, 'use_regex': True},
            'model': {'type': 'BPE', 'dropout': None, 'unk_token': None, 'continuing_subword_prefix': None, 'end_of_word_suffix': None, 'fuse_unk': False,
                      'byte_fallback': False, 'ignore_merges': False, 'vocab': words, 'merges': merges}}


def main():
    level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': True}
    plain = {**level, 'use_regex': False}
    sequence = lambda *parts: {'type': 'Sequence', 'pretokenizers': [*parts]}
    split = lambda behavior, invert=False: {'type': 'Split', 'pattern': {'Regex': '[!?]'}, 'behavior': behavior, 'invert': invert}
    tokenizers = {
        'ByteLevel': config(level),
        'Digits, each by itself': config(sequence({'type': 'Digits', 'individual_digits': True}, plain)),
        'Digits in runs': config(sequence({'type': 'Digits', 'individual_digits': False}, plain)),
        'Punctuation': config(sequence({'type': 'Punctuation', 'behavior': 'Isolated'}, plain)),
        'Punctuation in runs': config(sequence({'type': 'Punctuation', 'behavior': 'Contiguous'}, plain)),
        'WhitespaceSplit': config(sequence({'type': 'WhitespaceSplit'}, plain)),
        **{f'Split {b}{" inverted" if i else ""}': config(sequence(split(b, i), plain))
           for b in ['Removed', 'Isolated', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] for i in [False, True]},
        'a single word': config(level, [{'content': '<tok>', 'single_word': True}]),
        'an added token that takes spaces before it': config(level, [{'content': '<tok>', 'lstrip': True}]),
        'an added token that takes spaces after it': config(level, [{'content': '<tok>', 'rstrip': True}]),
    }
    cases = []
    for name, tokenizer in tokenizers.items():
        made = Tokenizer.from_str(json.dumps(tokenizer))
        changed = {key: tokenizer[key] for key in ['added_tokens', 'pre_tokenizer']}
        ids = [made.encode(text).ids for text in TEXTS]
        cases.append({'name': name, **changed, 'ids': ids, 'decoded': [made.decode(each) for each in ids]})
    base = {key: value for key, value in config(level).items()}
    Path(__file__).with_name('tokenizer_parts.json').write_text(json.dumps({'base': base, 'texts': TEXTS, 'cases': cases}) + '\n')


if __name__ == '__main__':
    main()
