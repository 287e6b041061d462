"""Perturbed prompts: exact examples of every kind, and properties for any class name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.templates import CUSTOM_TEMPLATES, IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT
from noise import edits
from noise.edits import CHARACTERS, KEYBOARD_NEIGHBOURS
from noise.phrasings import HELD_OUT_TEMPLATES
from noise.seeding import rng_for
from noise.text import (
    ALL_TEXT_KINDS,
    FILLERS,
    TEXT_KINDS,
    Prompt,
    char_noise,
    fill,
    perturb_prompt,
    perturbed_texts,
    sample_kinds,
    text_rate,
    word_noise,
)

TEMPLATES = ["a photo of a {}.", "a drawing of the {}.", "{} in a video game."]
TEXT_LEVEL = [name for name, kind in ALL_TEXT_KINDS.items() if kind.function is not None]

classnames = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["cat", "x", "707-320", "2012 Audi TTS Coupe", "crème brûlée", "猫", "{}", "jack-o'-lantern"]
)
templates = st.sampled_from([*TEMPLATES, "{}", "a  photo\tof {} , x", "{}: a {}.", "{0} {} {a}"])
rates = st.floats(0, 1)
seeds = st.integers(0, 1000)


class Draws:
    """Stands in for a generator: hands out the given uniform draws in turn."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self, size):
        taken, self.draws = self.draws[:size], self.draws[size:]
        assert len(taken) == size
        return np.array(taken)


def perturbed(kind, template, classname, rate, seed, others=TEMPLATES):
    return perturb_prompt(
        template,
        classname,
        kind,
        rate,
        rng_for(seed, classname),
        descriptions={classname: ["One sentence.", "Another one."]},
        templates=[*others, "a bad photo of the {}."],
    )


# Properties


@pytest.mark.parametrize("kind", TEXT_LEVEL)
@given(template=templates, classname=classnames, seed=seeds)
def test_rate_0_changes_nothing(kind, template, classname, seed):
    assert perturbed(kind, template, classname, 0, seed) == template.replace("{}", classname)


@pytest.mark.parametrize("kind", TEXT_LEVEL)
@given(template=templates, classname=classnames, rate=rates, seed=seeds)
def test_one_generator_state_gives_one_text(kind, template, classname, rate, seed):
    first = perturbed(kind, template, classname, rate, seed)
    assert isinstance(first, str)
    assert perturbed(kind, template, classname, rate, seed) == first


@given(template=templates, classname=classnames, rate=rates, seed=seeds)
def test_char_keeps_the_number_of_words(template, classname, rate, seed):
    text = perturbed("char", template, classname, rate, seed)
    assert len(text.split()) == len(fill(template, classname).split())


@given(words=st.lists(st.text("abcDEF019-é猫", min_size=1), min_size=1, max_size=5), seed=seeds)
def test_char_at_rate_1_edits_every_word_once(words, seed):
    text = perturb_prompt("{}", " ".join(words), "char", 1, rng_for(seed))
    for before, after in zip(words, text.split(), strict=True):
        if any(character.isalnum() for character in before):
            assert is_one_typing_error(before, after)
        else:
            assert before == after


def is_one_typing_error(before, after):
    """By trying all of them."""
    for i, character in enumerate(before):
        neighbours = KEYBOARD_NEIGHBOURS.get(character.lower(), "")
        if character.isupper():
            neighbours = neighbours.upper()
        candidates = [before[:i] + key + before[i + 1 :] for key in neighbours]
        candidates.append(before[:i] + before[i + 1 :])
        candidates.append(before[: i + 1] + before[i:])
        candidates.append(before[:i] + before[i + 1 : i + 2] + character + before[i + 2 :])
        if after in candidates and after != before:
            return True
    return False


@given(template=templates, classname=classnames, rate=rates, seed=seeds)
def test_class_name_survives_word_noise(template, classname, rate, seed):
    text = perturbed("word", template, classname, rate, seed)
    assert text.count(classname) >= template.count("{}")


@given(template=templates, classname=st.sampled_from(["cat", "sea lake"]), rate=rates, seed=seeds)
def test_word_noise_brings_no_words_but_fillers(template, classname, rate, seed):
    text = perturbed("word", template, classname, rate, seed)
    assert set(text.split()) <= {*template.replace("{}", classname).split(), *FILLERS}


@given(seed=seeds, low=rates, high=rates)
def test_a_higher_rate_keeps_the_errors_of_a_lower_one(seed, low, high):
    low, high = sorted([low, high])
    clean, some, more = (
        perturbed("char", "a centered satellite photo of {}.", "Annual Crop Land", rate, seed)
        for rate in (0, low, high)
    )
    for before, with_some, with_more in zip(clean.split(), some.split(), more.split(), strict=True):
        assert with_some in (before, with_more)


# Exact examples


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        # gate, edit of (neighbour, swap, drop, double), place, key
        ((0.0, 0.0, 0.0, 0.0), "Xat,"),
        ((0.0, 0.25, 0.5, 0.0), "Cta,"),
        ((0.0, 0.5, 0.0, 0.0), "at,"),
        ((0.0, 0.75, 0.99, 0.0), "Catt,"),
        ((0.5, 0.0, 0.0, 0.0), "Cat,"),
    ],
)
def test_char_examples(draws, expected):
    assert char_noise(Prompt("{},", "Cat"), 0.5, Draws(*draws)) == expected


@pytest.mark.parametrize(
    ("classname", "edit", "expected"),
    [
        ("x", 0.0, "z"),  # a single letter has but two edits: neighbour,
        ("x", 0.5, "xx"),  # and doubled; dropped, the word would be gone
        ("猫", 0.0, "猫猫"),  # not on the keyboard
        ("--", 0.0, "--"),  # nothing to mistype
        ("aa", 0.4, "a"),  # equal letters cannot be swapped: neighbour, drop, double
    ],
)
def test_char_on_words_with_few_possible_errors(classname, edit, expected):
    assert char_noise(Prompt("{}", classname), 1.0, Draws(0.0, edit, 0.0, 0.0)) == expected


HIT, MISS = 0.0, 0.9


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        # gate, edit of (filler, drop, swap), filler; one row per word of "big photo of {}."
        ([(HIT, 0.0, 0.0), (MISS, 0, 0), (MISS, 0, 0), (MISS, 0, 0)], "really big photo of sea."),
        ([(HIT, 0.4, 0.0), (MISS, 0, 0), (MISS, 0, 0), (MISS, 0, 0)], "photo of sea."),
        ([(HIT, 0.9, 0.0), (HIT, 0, 0), (MISS, 0, 0), (MISS, 0, 0)], "photo big of sea."),
        ([(MISS, 0, 0), (MISS, 0, 0), (HIT, 0.9, 0), (MISS, 0, 0)], "big photo sea."),  # no swap
        ([(MISS, 0, 0), (MISS, 0, 0), (MISS, 0, 0), (HIT, 0.9, 0.2)], "big photo of just sea."),
    ],
)
def test_word_examples(draws, expected):
    flat = [number for row in draws for number in row]
    assert word_noise(Prompt("big photo of {}.", "sea"), 0.5, Draws(*flat)) == expected


def test_template_draws_another_phrasing():
    texts = {perturbed("template", TEMPLATES[0], "cat", 1, seed) for seed in range(50)}
    assert texts == {"a drawing of the cat.", "cat in a video game.", "a bad photo of the cat."}


def test_description_replaces_the_sentence():
    texts = {perturbed("description", TEMPLATES[0], "cat", 1, seed) for seed in range(50)}
    assert texts == {"One sentence.", "Another one."}


@pytest.mark.parametrize("kind", ["template", "description"])
def test_rate_is_the_share_of_replaced_sentences(kind):
    clean = fill(TEMPLATES[0], "cat")
    replaced = [perturbed(kind, TEMPLATES[0], "cat", 0.3, seed) != clean for seed in range(1000)]
    assert 0.25 < np.mean(replaced) < 0.35


def test_keyboard_neighbours_are_mutual():
    for key, neighbours in KEYBOARD_NEIGHBOURS.items():
        assert key not in neighbours
        assert all(key in KEYBOARD_NEIGHBOURS[neighbour] for neighbour in neighbours)


@pytest.mark.parametrize("kind", ["char_insert", "char_replace", "char_delete", "char_swap"])
def test_rates_of_character_noise_are_per_character(kind):
    """Chen et al.: .1 to .5; a character drawn again, or swapped with its like, is no change."""
    assert [text_rate(kind, severity) for severity in range(1, 6)] == [0.1, 0.2, 0.3, 0.4, 0.5]
    text = "".join(np.random.default_rng(0).permutation(list(CHARACTERS.replace(" ", "") * 20)))
    noisy = perturb_prompt("{}", text, kind, 0.3, rng_for(1))
    if kind == "char_insert":
        assert len(noisy) / len(text) == pytest.approx(1.3, abs=0.03)
    elif kind == "char_delete":
        assert len(noisy) / len(text) == pytest.approx(0.7, abs=0.03)
    else:
        changed = np.mean([a != b for a, b in zip(text, noisy, strict=True)])
        # A swap moves two characters, and some are moved again.
        assert changed == pytest.approx(0.3 if kind == "char_replace" else 0.45, abs=0.03)


def test_characters_are_those_that_can_be_typed():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 95
    assert all(" " <= character <= "~" for character in CHARACTERS)


@pytest.mark.parametrize(
    ("edit", "draws", "expected"),
    [
        (edits.insert, [(0, 0), (0.9, 0), (0, 0), (0, 0.999)], "aab b "),  # none after a space
        (edits.replace, [(0, 0.999), (0.9, 0), (0, 0), (0.9, 0)], " bab"),
        (edits.swap, [(0, 0.999), (0.9, 0), (0.9, 0), (0.9, 0)], "bb a"),
    ],
)
def test_character_edits(edit, draws, expected):
    class Fixed:
        def random(self, shape):
            assert shape == (len("ab b"), 2)
            return np.array(draws)

    assert edit("ab b", 0.5, Fixed()) == expected


def test_deleting_takes_what_is_below_the_rate():
    class Fixed:
        def random(self, shape):
            return np.array([0.1, 0.9, 0.1, 0.9])

    assert edits.delete("abcd", 0.5, Fixed()) == "bd"


def test_changes_of_form():
    def at_rate_1(kind, seed=1):
        return perturb_prompt("a photo of a {}.", "Red apple", kind, 1.0, rng_for(seed))

    assert at_rate_1("case") == "A PHOTO OF A RED APPLE."
    assert perturb_prompt("A {}", "TV", "case", 1.0, rng_for(1)) == "a tv"
    clean = ["a", "photo", "of", "a", "Red", "apple."]
    words = at_rate_1("punctuation").split(" ")
    assert [word.rstrip(edits.MARKS) for word in words] == [*clean[:-1], "apple"]
    assert all(word[-1] in edits.MARKS for word in words) and words[-1] != "apple."
    orders = {at_rate_1("word_order", seed) for seed in range(20)}
    assert all(sorted(text.split()) == sorted(clean) for text in orders)
    assert len(orders) > 15
    for seed in range(20):
        pairs = zip(clean, at_rate_1("one_edit", seed).split(" "), strict=True)
        (changed,) = [pair for pair in pairs if pair[0] != pair[1]]
        assert is_one_typing_error(*changed)


def test_phrasings_for_testing_are_none_that_training_knows():
    known = {*IMAGENET_TEMPLATES, *IMAGENET_TEMPLATES_SELECT, *CUSTOM_TEMPLATES.values()}

    def bare(template):
        return " ".join(template.lower().rstrip(".!").split())

    assert {bare(t) for t in HELD_OUT_TEMPLATES}.isdisjoint(bare(t) for t in known)
    assert len(set(HELD_OUT_TEMPLATES)) == len(HELD_OUT_TEMPLATES) == 40
    assert all(template.count("{}") == 1 for template in HELD_OUT_TEMPLATES)
    assert "phrasing" not in TEXT_KINDS  # what methods may train with


def distance(a, b):
    """Levenshtein's, from the definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance(a[1:], b) + 1,
        distance(a, b[1:]) + 1,
        distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_all_strings_at_distance_one():
    found = edits.at_distance_one("ab", "abc")
    assert len(found) == len(set(found))
    near = [a + b + c for a in ["", *"abc"] for b in ["", *"abc"] for c in ["", *"abc"]]
    assert set(found) == {text for text in near if distance("ab", text) == 1}


def test_misspellings_say_nothing_else():
    words = {"car", "cart", "bat", "at"}
    drawn = edits.misspellings("cat", 50, rng_for(1), words, ["cat", "Cats"])
    assert len(drawn) == len(set(drawn)) == 50
    assert all(distance("cat", text) == 1 for text in drawn)
    assert not {"car", "cart", "bat", "at", "cats"} & set(drawn)
    every = edits.misspellings("cat", 1000, rng_for(1), words, ["cat", "cats"])
    assert len(every) == len(edits.at_distance_one("cat")) - 5
    assert every[:50] == drawn
    assert edits.misspellings("cat", 50, rng_for(2), words, ["cat", "cats"]) != drawn


# The texts of a training run


def test_perturbed_texts_do_not_depend_on_the_order_or_choice_of_classes():
    def texts(names):
        rows = perturbed_texts(
            names, TEMPLATES[0], ["char", "word", "template"], 0.5, 6, seed=1, templates=TEMPLATES
        )
        return dict(zip(names, rows, strict=True))

    everything = texts(["cat", "dog", "sea lake"])
    assert texts(["sea lake", "dog"]) == {name: everything[name] for name in ("sea lake", "dog")}
    assert all(len(row) == 6 for row in everything.values())


def test_perturbed_texts_depend_on_seed_and_sample():
    one, other = (
        perturbed_texts(["great white shark"], TEMPLATES[0], ["char"], 1.0, 8, seed=seed)[0]
        for seed in (1, 2)
    )
    assert len(set(one)) == 8
    assert one != other


def test_perturbed_texts_are_seeded_by_class_kind_and_sample():
    names, kinds = ["cat", "dog"], ["char", "word"]
    assert perturbed_texts(names, TEMPLATES[0], kinds, 0.5, 4, seed=3) == [
        [
            perturb_prompt(TEMPLATES[0], name, kind, 0.5, rng_for(3, "text", kind, name, k))
            for k, kind in enumerate(["char", "word", "char", "word"])
        ]
        for name in names
    ]


def test_perturbed_texts_share_the_samples_among_the_kinds():
    kinds = ["char", "description", "embed"]
    assert sample_kinds(kinds, 7) == ["char", "description", "embed"] * 2 + ["char"]
    (texts,) = perturbed_texts(
        ["Sea_Lake"],
        "a photo of {}.",
        kinds,
        1e-9,
        6,
        seed=1,
        descriptions={"sea lake": ["Blue water."]},
    )
    # However small the rate, a description is one; embeddings are not perturbed here.
    assert texts == ["a photo of Sea_Lake.", "Blue water.", "a photo of Sea_Lake."] * 2


@settings(max_examples=20)
@given(names=st.lists(classnames, max_size=4), seed=seeds)
def test_perturbed_texts_at_rate_0_are_clean(names, seed):
    rows = perturbed_texts(
        names,
        TEMPLATES[0],
        list(TEXT_KINDS),
        0,
        5,
        seed,
        templates=TEMPLATES,
        descriptions={name: ["Anything."] for name in names},
    )
    assert rows == [[fill(TEMPLATES[0], name)] * 5 for name in names]


# Severities and bad input


@pytest.mark.parametrize("kind", ALL_TEXT_KINDS)
def test_severities_are_increasing_rates(kind):
    rates = [text_rate(kind, severity) for severity in range(6)]
    assert rates[0] == 0
    assert all(low < high <= 1 for low, high in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "chr"}, "Unknown text noise kind 'chr'. Did you mean char or char_swap?"),
        ({"kind": "embed"}, "perturb_embeddings"),
        ({"rate": 1.5}, "Noise rate 1.5 is out of range"),
        ({"rate": -0.1}, "Noise rate -0.1 is out of range"),
        ({"rate": float("nan")}, "Noise rate nan is out of range"),
        ({"rate": "much"}, "Noise rate 'much' is out of range"),
        ({"template": "a photo."}, "Template 'a photo.' has no {}"),
        ({"template": "a photo.", "kind": "char"}, "Template 'a photo.' has no {}"),
        ({"kind": "template"}, "Pass templates="),
        ({"kind": "template", "templates": ["a {}."]}, "no other phrasing"),
        ({"kind": "description"}, "Pass descriptions="),
        ({"kind": "description", "descriptions": {"cats": ["x"]}}, "Nearest: cats."),
    ],
)
def test_bad_input(change, message):
    arguments = {"template": "a {}.", "classname": "cat", "kind": "word", "rate": 0.5} | change
    with pytest.raises(ValueError) as error:
        perturb_prompt(**arguments, rng=rng_for(1))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_input_of_perturbed_texts():
    with pytest.raises(ValueError, match="Unknown text noise kind 'words'. Did you mean word?"):
        perturbed_texts(["cat"], "a {}.", ["char", "words"], 0.1, 1, seed=1)
    with pytest.raises(ValueError, match="needs a kind and a sample"):
        perturbed_texts(["cat"], "a {}.", [], 0.1, 1, seed=1)
    with pytest.raises(ValueError, match="needs a kind and a sample"):
        perturbed_texts(["cat"], "a {}.", ["char"], 0.1, 0, seed=1)
    with pytest.raises(ValueError, match="no entry for class 'dog'"):
        perturbed_texts(
            ["cat", "dog"], "a {}.", ["description"], 0.1, 1, seed=1, descriptions={"cat": ["x"]}
        )


@pytest.mark.parametrize("severity", [-1, 6, 1.5, "3", None])
def test_bad_severity(severity):
    with pytest.raises(ValueError, match="does not exist: give 1 to 5"):
        text_rate("char", severity)
