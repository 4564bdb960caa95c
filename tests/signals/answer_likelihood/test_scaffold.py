import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerSuffix


def fast(model, pre_tokenizer, normalizer=None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level(merges: list[tuple[str, str]], *, trim_offsets: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *("".join(merge) for merge in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    if trim_offsets:
        from tokenizers import processors

        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return wrapped


def scored(tokenizer: PreTrainedTokenizerFast, suffix: AnswerSuffix) -> list[str]:
    pairs = zip(suffix.ids, suffix.is_answer, strict=True)
    return [tokenizer.convert_ids_to_tokens(token) for token, is_answer in pairs if is_answer]


def test_only_the_answer_is_scored_and_the_rest_of_the_scaffold_is_cut(tokenizer):
    """Word by word: "it is (" is context, "new york" is scored, ")" is left out."""
    suffix = AnswerScaffold("it is ( {answer} ) of light").encode(tokenizer, "new york")
    assert suffix == AnswerSuffix(ids=(2, 3, 4, 8, 9), is_answer=(False, False, False, True, True))


def test_scaffold_words_equal_to_the_answer_are_not_scored(tokenizer):
    """The answer is located by its place, not by its text: the scaffold may contain the same word."""
    suffix = AnswerScaffold("paris {answer} paris").encode(tokenizer, "paris")
    assert suffix == AnswerSuffix(ids=(6, 6), is_answer=(False, True))


def test_literal_braces_stay_literal():
    r"""`\boxed{...}`, doubled braces and format fields in the template are plain characters."""
    characters = byte_level([], trim_offsets=False)
    suffix = AnswerScaffold(r"{{0}} \boxed{{answer}} {x}").encode(characters, "ab")
    text = "".join(characters.convert_ids_to_tokens(list(suffix.ids))).replace("Ġ", " ")
    assert text == r"{{0}} \boxed{ab"
    assert scored(characters, suffix) == ["a", "b"]


def test_a_token_that_straddles_scaffold_and_answer_counts():
    """With the merges "{P" and "s}", both tokens hold an answer character and are scored."""
    tokenizer = byte_level([("{", "P"), ("s", "}")], trim_offsets=False)
    suffix = AnswerScaffold("x{{answer}} y").encode(tokenizer, "Paris")
    assert scored(tokenizer, suffix) == ["{P", "a", "r", "i", "s}"]
    assert suffix.is_answer == (False, True, True, True, True, True)


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_leading_space_token_counts_only_with_answer_characters(trim_offsets):
    """ " P" belongs to the answer, a lone space before it does not, whichever way offsets treat spaces."""
    merged = byte_level([("Ġ", "P")], trim_offsets=trim_offsets)
    assert scored(merged, AnswerScaffold("x {answer}").encode(merged, "Pa")) == ["ĠP", "a"]
    separate = byte_level([], trim_offsets=trim_offsets)
    assert scored(separate, AnswerScaffold("x {answer} y").encode(separate, "Pa")) == ["P", "a"]


def test_every_byte_of_a_character_counts():
    """A character that takes several byte tokens is scored in full."""
    tokenizer = byte_level([], trim_offsets=False)
    suffix = AnswerScaffold("x {answer} y").encode(tokenizer, "é")
    assert sum(suffix.is_answer) == 2


@pytest.mark.parametrize("template", ["no place", "{answer} twice {answer}", "{ answer }"])
def test_a_template_without_exactly_one_place_is_refused(template):
    """The error names the template, before anything is scored with it."""
    with pytest.raises(ValueError, match=r"exactly once.*got"):
        AnswerScaffold(template)


@pytest.mark.parametrize("answer", ["", "  \n"])
def test_a_blank_answer_is_refused(tokenizer, answer):
    """A mean over no tokens would be NaN; the error names the answer."""
    with pytest.raises(ValueError, match=r"answer .* is blank"):
        AnswerScaffold("it is {answer}").encode(tokenizer, answer)


def test_an_answer_without_tokens_is_refused():
    """A tokenizer that drops unknown characters leaves nothing to score, though the scaffold has tokens."""
    letters = fast(models.BPE({"a": 0, "b": 1}, []), pre_tokenizers.WhitespaceSplit(), normalizers.Lowercase())
    with pytest.raises(ValueError, match="answer '東京' has no token"):
        AnswerScaffold("ab {answer} ba").encode(letters, "東京")


def test_a_tokenizer_without_offsets_is_refused():
    """Guessing the answer's tokens is worse than stopping."""

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow reports no character offsets"):
        AnswerScaffold("it is {answer}").encode(Slow(), "paris")


def test_encodings_are_cached_per_tokenizer_and_answer(tokenizer):
    """The second request returns the very same object; another answer does not."""
    scaffold = AnswerScaffold("it is {answer}")
    assert scaffold.encode(tokenizer, "rome") is scaffold.encode(tokenizer, "rome")
    assert scaffold.encode(tokenizer, "rome") != scaffold.encode(tokenizer, "paris")
