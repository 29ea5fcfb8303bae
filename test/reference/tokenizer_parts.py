"""Writes tokenizer_parts.json: what the Python `tokenizers` library makes of texts with small tokenizers, each with a part that is easily read otherwise."""
import json
from pathlib import Path

from tokenizers import Tokenizer

TEXTS = ['a½b ²1① ٣4 12', 'a\ufeffb \ufeff c\u0085d', 'x<tok>y <tok> z<tok>', 'hi!! (a), b?!', "don't 'status', a", ' a  b ', 'été 桥 a😀b', 'a\u200db \u03a3\u0391\u03a3 1é2', '  a   b!!', '<\uff5cend\u2581\uff5c>b', 'aabb x12 ab.']
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


def other(kind, pre=None, decoder=None, normalizer=None, added=()):
    """A tokenizer that is not of bytes: of pieces with and without tokens for bytes, of words, or of characters."""
    made = {**config(pre, added, decoder), 'normalizer': normalizer, 'decoder': decoder}
    special = ['<s>', '</s>', '<unk>', '<pad>']
    bytes_ = [f'<0x{byte:02X}>' for byte in range(256)] if kind.endswith('with bytes') else []
    pieces = [*special, *bytes_, *'ab 12!(),.?x<tok>dn\'su\u2581', '\u2581\u2581', '\u2581a', '12', 'ab', '##b', '##2', '##o', '##k', '##>', '|']
    pieces = list(dict.fromkeys(pieces))
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [['\u2581', '\u2581'], ['\u2581', 'a'], ['1', '2'], ['a', 'b']]
    bpe = {'type': 'BPE', 'dropout': None, 'unk_token': '<unk>', 'continuing_subword_prefix': None, 'end_of_word_suffix': None, 'fuse_unk': True,
           'byte_fallback': bool(bytes_), 'ignore_merges': False, 'vocab': ids, 'merges': merges}
    made['model'] = {
        'pieces': {'type': 'Unigram', 'unk_id': 2, 'vocab': [[piece, -1.0 - i / 100] for i, piece in enumerate(pieces)], 'byte_fallback': bool(bytes_)},
        'characters': bpe,
        'no unknown': {**bpe, 'unk_token': None, 'fuse_unk': False},
        'word pieces': {'type': 'WordPiece', 'unk_token': '<unk>', 'continuing_subword_prefix': '##', 'max_input_chars_per_word': 100, 'vocab': ids},
    }[kind.removesuffix(' with bytes')]
    return made


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
    metaspace = lambda scheme, split: {'type': 'Metaspace', 'replacement': '\u2581', 'prepend_scheme': scheme, 'split': split}
    llama = {'type': 'Sequence', 'decoders': [{'type': 'Replace', 'pattern': {'String': '\u2581'}, 'content': ' '}, {'type': 'ByteFallback'}, {'type': 'Fuse'},
                                              {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}]}
    tokenizers |= {
        **{f'Metaspace {scheme}{", not divided" if not split else ""}': other('characters with bytes', metaspace(scheme, split), metaspace(scheme, split))
           for scheme in ['always', 'first', 'never'] for split in [True, False]},
        'pieces with bytes': other('pieces with bytes', metaspace('always', True), llama),
        'pieces without bytes': other('pieces', metaspace('always', True), metaspace('always', True)),
        'words by white space, with unknown ones side by side': other('characters', {'type': 'Whitespace'}, {'type': 'Fuse'}),
        'characters that are not known and have no token': other('no unknown', {'type': 'WhitespaceSplit'}),
        'word pieces': other('word pieces', {'type': 'BertPreTokenizer'}, {'type': 'WordPiece', 'prefix': '##', 'cleanup': True}),
        'word pieces, not cleaned': other('word pieces', {'type': 'BertPreTokenizer'}, {'type': 'WordPiece', 'prefix': '##', 'cleanup': False}),
        'an end of words': other('characters', {'type': 'WhitespaceSplit'}, {'type': 'BPEDecoder', 'suffix': 'b'}),
        'CTC': other('characters', {'type': 'WhitespaceSplit'}, {'type': 'CTC', 'pad_token': '<pad>', 'word_delimiter_token': '|', 'cleanup': True}),
        'Strip': other('characters', metaspace('always', True), {'type': 'Strip', 'content': 'a', 'start': 1, 'stop': 0}),
        'ByteLevel among others': {**config(level, [{'content': '<\uff5cend\u2581\uff5c>'}]), 'decoder': {'type': 'Sequence', 'decoders': [config(level)['decoder']]}},
        'Lowercase': {**config(level), 'normalizer': {'type': 'Lowercase'}},
        'BertNormalizer': {**config(level), 'normalizer': {'type': 'BertNormalizer', 'clean_text': True, 'handle_chinese_chars': True, 'strip_accents': None, 'lowercase': True}},
    }
    base = config(level)
    cases = []
    for name, tokenizer in tokenizers.items():
        made = Tokenizer.from_str(json.dumps(tokenizer))
        changed = {key: tokenizer[key] for key in ['added_tokens', 'pre_tokenizer', 'normalizer', 'decoder', 'model'] if tokenizer[key] != base[key]}
        ids = [made.encode(text).ids for text in TEXTS]
        cases.append({'name': name, 'changed': changed, 'ids': ids, 'decoded': [made.decode(each) for each in ids]})
    Path(__file__).with_name('tokenizer_parts.json').write_text(json.dumps({'base': base, 'texts': TEXTS, 'cases': cases}) + '\n')


if __name__ == '__main__':
    main()
