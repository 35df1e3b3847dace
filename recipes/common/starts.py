"""Where a new model that finds objects begins: detection tokens that have places, and see what is near them.

From the start values of Transformers, a small YOLOS finds nothing for thousands of steps: every token says the same
mean box whatever the image is. Three things together end that within some hundred steps; see ``start_placed``.
"""

import math

import torch
from torch import nn
from transformers import PreTrainedModel


# Sines from half a period over the image to six of them.
PERIODS = (0.5, 6.0)
# How strong positions are beside patches; how strong attention's start is: of scores, of what is copied.
POSITION, SCORE, COPY = 0.5, 1.2, 0.7
# Steps that the head of the boxes is fitted for, and their rate.
FIT_STEPS, FIT_RATE = 300, 3e-3


def start_zeros(model: PreTrainedModel) -> None:
    """Draw the tokens and positions of a new model that are all 0: Transformers leaves them so, and none differs.

    Source: YOLOS, Fang et al., 2021, arXiv 2106.00666, whose authors draw them with a deviation of 0.02.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() > 2 and ("token" in name or "position" in name) and not parameter.any():
            nn.init.trunc_normal_(parameter, std=0.02)


def start_placed(model: PreTrainedModel, images: torch.Tensor, boxes: torch.Tensor) -> None:
    """Start a new YOLOS with detection tokens that are spread over the image.

    - A token has the position of its place, in the same sines as the patches.
    - Attention begins with what is near, and adds it to the token: queries and keys are one orthogonal matrix, and
      values and outputs another one and its transpose.
    - The head of the boxes is fitted, before the training, to say a box of the mean size at each token's place.

    Sources: Mimetic Initialization, Trockman & Kolter, 2023, arXiv 2305.09828 (attention that begins as the identity);
    Anchor DETR, Wang et al., 2021, arXiv 2109.07107 (tokens with places).

    Args:
        model: a YOLOS, stock or ours.
        images: some that it is trained on, as it takes them.
        boxes: those of the training images, [boxes, 4] as center, width and height, in shares of the image.
    """
    embeddings, count = model.vit.embeddings, model.config.num_detection_tokens
    height, width = images.shape[-2:]
    patch = embeddings.patch_embeddings.projection.kernel_size
    patches = grid(height // patch[0], [width // patch[1]] * (height // patch[0]))
    places = spread(count, height / width)
    with torch.no_grad():
        # behind that of the token for the whole image
        positions = embeddings.position_embeddings[0, 1:]
        positions.copy_(POSITION * sines(torch.cat([patches, places]), positions.shape[-1]))
        for name, _ in model.named_modules():
            if name.endswith("attention.query"):
                _start_attention(model, name.removesuffix("attention.query"))
    target = torch.cat([places.flip(-1), boxes[:, 2:].mean(0).expand(count, 2)], -1)
    _fit_boxes(model, images, target)


def spread(count: int, ratio: float) -> torch.Tensor:
    """Places of so many tokens, [count, 2]: in rows, as many as the ratio of height to width asks for."""
    rows = max(1, min(count, round(math.sqrt(count * ratio))))
    return grid(rows, [count // rows + (row < count % rows) for row in range(rows)])


def grid(rows: int, columns: list[int]) -> torch.Tensor:
    """The centers of cells, [cells, 2], down and across as shares of the image; each row has its number of them."""
    cells = [((row + 0.5) / rows, (at + 0.5) / columns[row]) for row in range(rows) for at in range(columns[row])]
    return torch.tensor(cells)


def sines(places: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of places [places, 2], at wavelengths that shrink evenly; what is left over is 0."""
    first, last = (math.log(2 * math.pi * periods) for periods in PERIODS)
    angles = places[..., None] * torch.linspace(first, last, width // 4).exp()
    found = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    return nn.functional.pad(found, (0, width - found.shape[-1]))


def _start_attention(model: PreTrainedModel, layer: str) -> None:
    core, output = model.get_submodule(f"{layer}attention"), model.get_submodule(f"{layer}output.dense")
    scores, copied = (nn.init.orthogonal_(torch.empty_like(output.weight)) for _ in range(2))
    for part, weight in (
        (core.query, SCORE * scores),
        (core.key, SCORE * scores),
        (core.value, COPY * copied),
        (output, COPY * copied.T),
    ):
        part.weight.copy_(weight)


def _fit_boxes(model: PreTrainedModel, images: torch.Tensor, target: torch.Tensor) -> None:
    with torch.no_grad():
        states = model.eval().vit(images).last_hidden_state[:, -len(target) :]
    target = target.to(states.device)
    optimizer = torch.optim.Adam(model.bbox_predictor.parameters(), FIT_RATE)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        nn.functional.l1_loss(model.bbox_predictor(states).sigmoid(), target.expand(len(states), -1, -1)).backward()
        optimizer.step()
    model.zero_grad()
