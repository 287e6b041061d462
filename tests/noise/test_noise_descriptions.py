import json

import pytest

from common.errors import UsageError
from noise.descriptions import find_descriptions, leading_sentences, load_descriptions


def written(folder, content):
    path = folder / "descriptions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_reads_what_is_written(tmp_path):
    content = {"Sea_Lake": ["Blue water.", "A lake, from above."], "crème brûlée": ["Sweet."]}
    assert load_descriptions(written(tmp_path, content)) == content


def test_reads_a_byte_order_mark(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text('{"cat": ["Soft."]}', encoding="utf-8-sig")
    assert load_descriptions(str(path)) == {"cat": ["Soft."]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("{}", "it holds no classes"),
        (["a cat"], "the content is a list, not a mapping"),
        ({"cat": []}, "class 'cat' has no sentence, or an empty one"),
        ({"cat": "Soft."}, "cat is Soft., not a list"),
        ({"cat": ["Soft.", 3]}, "cat/1 is 3, not a text"),
        ({"cat": [" "]}, "class 'cat' has no sentence, or an empty one"),
        (None, "not a mapping"),
    ],
)
def test_refuses_other_content_in_one_line(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as error:
        load_descriptions(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_refuses_binary_files(tmp_path):
    path = tmp_path / "image.json"
    path.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_descriptions(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="nothing.json: no such file"):
        load_descriptions(tmp_path / "nothing.json")


def test_names_match_regardless_of_case_and_separators():
    descriptions = {"Apply Eye Makeup": ["a"], "707-320": ["b"], "Straße": ["c"]}
    assert find_descriptions(descriptions, "apply_eye_makeup") == ["a"]
    assert find_descriptions(descriptions, "707 320") == ["b"]
    assert find_descriptions(descriptions, "STRASSE") == ["c"]


def test_the_exact_name_comes_first_and_like_names_are_joined():
    descriptions = {"sea lake": ["a"], "Sea_Lake": ["b"]}
    assert find_descriptions(descriptions, "sea lake") == ["a"]
    assert find_descriptions(descriptions, "SEA LAKE") == ["a", "b"]


def test_a_missing_class_names_the_nearest_ones():
    with pytest.raises(ValueError, match="no entry for class 'rivers'.*Nearest: River.") as error:
        find_descriptions({"River": ["a"], "Forest": ["b"]}, "rivers")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One two.", "One two."),
        ("  One\n two. ", "One two."),
        ("One two. Three four! Five.", "One two. Three four!"),
        ("One two three four five six. Seven.", "One two three four five six."),
        ("One two. Three four five six. Seven.", "One two."),
    ],
)
def test_leading_sentences(text, kept):
    assert leading_sentences(text, max_words=4) == kept
