"""Independent formulas of the norms over the tokens of a sequence that keep no state: written from the papers."""

import torch
from norm_references import sum_norm


def contra(x, norm, scale=0.1, identity=False, temperature=1.0, eps=1e-6):
    """One sequence [tokens, hidden] without padding, token by token."""
    directions = torch.stack([token / token.norm() for token in x])
    rows = []
    for i, token in enumerate(x):
        weights = torch.stack([torch.exp(directions[i] @ other / temperature) for other in directions])
        mixed = (weights[:, None] * x).sum(0) / weights.sum()
        y = (1 + scale if identity else 1) * token - scale * mixed
        y = y - y.mean()
        rows.append(y / (y.square().mean() + eps) ** 0.5 * norm.weight + norm.bias)
    return torch.stack(rows)


def contra_of_features(x, norm, over, scale=0.1, identity=False, temperature=1.0, eps=1e-6):
    """The same, feature by feature."""
    columns = (x / x.norm(dim=-1, keepdim=True)).T
    weights = torch.stack([torch.exp(torch.stack([i @ j for j in columns]) / temperature) for i in columns])
    weights = weights / weights.sum(1, keepdim=True)
    mixed = torch.stack([sum(x[:, i] * weights[i, j] for i in range(len(columns))) for j in range(len(columns))], -1)
    y = (1 + scale if identity else 1) * x - scale * mixed
    y = y - y.mean(-1, keepdim=True)
    return y / (y.square().mean(-1, keepdim=True) + eps) ** 0.5 * norm.weight + norm.bias


def sequence_group(x, norm, groups, eps=1e-5):
    """One sequence without padding, group by group, all numbers of a group in one row."""
    parts = []
    for part in x.chunk(groups, -1):
        row = part.flatten()
        mean = row.sum() / row.numel()
        parts.append((part - mean) / (((row - mean) ** 2).sum() / row.numel() + eps) ** 0.5)
    return torch.cat(parts, -1) * norm.weight + norm.bias


def around(x, norm, groups, variant="paper", eps=1e-5, grid=None):
    """Dynamic token norm of one sequence, or of the patches of a grid, token by token and head by head."""
    rows, columns = grid or (1, len(x))
    places = [divmod(token, columns) for token in range(rows * columns)]
    shares = (1 / (1 + torch.exp(-norm.own_share))).split(groups)
    heads = x.chunk(groups, -1)
    if variant == "official":
        heads = [head / ((head * head).sum(-1, keepdim=True) / head.shape[-1] + eps) ** 0.5 for head in heads]
    tokens = torch.cat(heads, -1)
    first, out = len(x) - len(places), []
    for i, token in enumerate(tokens):
        mean = token.sum() / len(token)
        var = ((token - mean) ** 2).sum() / (len(token) - (variant == "official"))
        parts = []
        for head, values in enumerate(heads):
            mean_i, var_i = mean, var
            if i >= first:
                shifts = [[places[i - first][axis] - place[axis] for axis in (0, 1)] for place in places]
                a = norm.position_weights[head]
                weights = torch.stack([torch.exp(a[0] * (y * y + x * x) + a[1] * y + a[2] * x) for y, x in shifts])
                weights = weights / weights.sum()
                mean_j = (weights[:, None] * values[first:]).sum(0)
                var_j = (weights[:, None] * (values[first:] - mean_j) ** 2).sum(0)
                mean_i = shares[0][head] * mean + (1 - shares[0][head]) * mean_j
                var_i = shares[-1][head] * var + (1 - shares[-1][head]) * var_j
            parts.append((values[i] - mean_i) / (var_i + eps) ** 0.5)
        out.append(torch.cat(parts) * norm.weight + norm.bias)
    return torch.stack(out)


# norms without a state: the options, and the function of one sequence without padding
SEQUENCE_NORMS = {
    "group": ("sequence_group_norm", {"groups": 1}, sequence_group),
    "group_of_one_feature": ("sequence_group_norm", {"groups": 5, "eps": 1e-3}, sequence_group),
    "contra": ("contra_norm", {}, contra),
    "contra_bert": ("contra_norm", {"scale": 0.5, "identity": True, "temperature": 0.5}, contra),
    "around": ("dynamic_token_norm", {"groups": 1}, around),
    "around_official": ("dynamic_token_norm", {"groups": 5, "variant": "official", "eps": 1e-3}, around),
    "contra_of_features": ("contra_norm", {"over": "features", "scale": 0.5, "temperature": 0.5}, contra_of_features),
    **{
        f"{'signed' if signed else 'sizes'}_sum": (
            "sum_norm",
            {"over": "tokens", "signed": signed, "eps": eps},
            lambda x, norm, over, **options: sum_norm(x, {"weight": norm.weight}, axis=0, **options),
        )
        # one of the five sums of a sequence is below the floor
        for signed, eps in ((True, 5.0), (False, 10.0))
    },
}
