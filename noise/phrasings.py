"""Phrasings of a prompt for testing: no method here trains with any of them. [O]

The kinds of change are those of RobustPrompt (https://arxiv.org/abs/2503.08229): other words, other
order, another tense, a feeling, more detail. The sentences are this project's.
"""

HELD_OUT_TEMPLATES = [
    # Other words.
    "an image showing a {}.",
    "a snapshot of a {}.",
    "a shot of a {}.",
    "a depiction of a {}.",
    "a portrait of a {}.",
    "an illustration of a {}.",
    "a frame that shows a {}.",
    "footage of a {}.",
    "a view of a {}.",
    "imagery of a {}.",
    # Another order.
    "a {}, photographed.",
    "{}, in a photo.",
    "of a {}, this is a photo.",
    "a {} is what this photo shows.",
    "in this image there is a {}.",
    "here, a {} can be seen.",
    "what is depicted is a {}.",
    "seen in the picture: a {}.",
    # Another tense or form.
    "somebody took a photo of a {}.",
    "this picture was taken of a {}.",
    "we are looking at a {}.",
    "the camera captured a {}.",
    "someone will show you a {}.",
    "a {} has been photographed.",
    "there had been a {} in front of the lens.",
    # A feeling.
    "what a wonderful photo of a {}!",
    "a sad image of a {}.",
    "finally, a picture of a {}!",
    "an astonishing view of a {}.",
    "i like this photo of a {}.",
    "a boring snapshot of a {}.",
    # More detail.
    "a photo of a {} taken outdoors in daylight.",
    "a photo of a {} with a plain background.",
    "an image of a {} in the middle of the frame.",
    "a photo of a {} taken with a phone.",
    "a slightly tilted photograph of a {}.",
    "a photograph of a {} from some distance.",
    "an old photograph of a {} found in an album.",
    "a photo of a {} next to other things.",
    "a photo showing part of a {}.",
]
