"""Independent formulas of the norms with running statistics: one training step after the other, in plain torch.

A row is a class with the state of a norm, named like its buffers. `train(x, cotangent)` takes the real tokens of one
batch, [tokens, hidden], and gives output, gradient for x and gradients for the parameters of
`(output * cotangent).sum()` plus what the norm adds to the loss; then the state is the one after the batch. A class
with `sees_padding` is given all places, [places, hidden], and which of them are real, as a third argument.
"""

import torch


class Batch:
    """BatchNorm; its gradient is autograd's."""

    eps = 1e-5

    def __init__(self, parameters, momentum=0.1, **options):
        self.p = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        self.momentum, self.options = momentum, options
        width = next(iter(parameters.values())).numel()
        self.state = {"running_mean": torch.zeros(width).double(), "running_var": torch.ones(width).double()}

    def train(self, x, cotangent):
        x = x.detach().requires_grad_()
        y, extra = self.forward(x)
        grads = torch.autograd.grad((y * cotangent).sum() + extra, [x, *self.p.values()], allow_unused=True)
        grads = [
            torch.zeros_like(of) if grad is None else grad
            for grad, of in zip(grads, [x, *self.p.values()], strict=True)
        ]
        return y.detach(), grads[0], dict(zip(self.p, grads[1:], strict=True))

    def statistics(self, x):
        n = max(len(x), 1)
        mean = x.sum(0) / n
        return mean, ((x - mean) ** 2).sum(0) / n

    def take_in(self, mean, var, n):
        if n < 2:
            return
        keep = 1 - self.momentum
        self.state["running_mean"] = keep * self.state["running_mean"] + self.momentum * mean.detach()
        self.state["running_var"] = keep * self.state["running_var"] + self.momentum * var.detach() * n / (n - 1)

    def affine(self, z, weight="weight", bias="bias"):
        return z * self.p[weight] + self.p[bias]

    def forward(self, x):
        mean, var = self.statistics(x)
        self.take_in(mean, var, len(x))
        return self.affine((x - mean) / (var + self.eps) ** 0.5), 0.0

    def evaluate(self, x):
        return self.affine((x - self.state["running_mean"]) / (self.state["running_var"] + self.eps) ** 0.5)


class Regularized(Batch):
    def __init__(self, parameters, momentum=0.05, **options):
        super().__init__(parameters, momentum, **options)

    def forward(self, x):
        mean, var = self.statistics(x)
        gap = (mean - self.state["running_mean"]) ** 2
        spread = ((var + self.eps) ** 0.5 - (self.state["running_var"] + self.eps) ** 0.5) ** 2
        penalty = self.options.get("mean_penalty", 0.1) * gap.sum()
        penalty = penalty + self.options.get("deviation_penalty", 0.01) * spread.sum()
        y, _ = super().forward(x)
        return y, penalty if len(x) > 1 else 0.0


class Rep(Batch):
    def forward(self, x):
        y, _ = super().forward(x)
        return y + self.p["alpha"] * x, 0.0

    def evaluate(self, x):
        return super().evaluate(x) + self.p["alpha"] * x


class ProgressiveRep(Batch):
    """Its two norms have parameters and statistics under their own names."""

    def __init__(self, parameters, iterations, **options):
        super().__init__(parameters, **options)
        self.iterations = iterations
        self.state["iterations_done"] = torch.tensor(0)

    def affine(self, z, weight="rep_bn.weight", bias="rep_bn.bias"):
        return super().affine(z, weight, bias)

    def forward(self, x):
        done = int(self.state["iterations_done"])
        share = max(1 - done / self.iterations, 0.0)
        self.state["iterations_done"] = torch.tensor(done + 1)
        mean = x.mean(-1, keepdim=True)
        var = ((x - mean) ** 2).mean(-1, keepdim=True)
        layer_norm = self.affine((x - mean) / (var + self.eps) ** 0.5, "layer_norm.weight", "layer_norm.bias")
        rep_bn, _ = super().forward(x)
        return share * layer_norm + (1 - share) * (rep_bn + self.p["rep_bn.alpha"] * x), 0.0

    def evaluate(self, x):
        return super().evaluate(x) + self.p["rep_bn.alpha"] * x


class Power:
    """The paper's algorithm, its backward written out."""

    eps = 1e-5
    warmup = 0

    def __init__(self, parameters, momentum=0.1, **options):
        self.p, self.alpha = parameters, 1 - momentum
        self.warmup, self.groups = options.get("warmup", self.warmup), options.get("groups", 1)
        width = parameters["weight"].numel()
        self.state = {
            "running_square": torch.ones(width).double(),
            "running_gradient": torch.zeros(width).double(),
            "iterations_done": torch.tensor(0),
        }

    def train(self, x, cotangent):
        if not len(x):
            return x, x, {name: torch.zeros_like(value) for name, value in self.p.items()}
        self.state["iterations_done"] = self.state["iterations_done"] + 1
        z, root = self.divide(x)
        y = z * self.p["weight"] + self.p["bias"]
        g = cotangent * self.p["weight"]
        nu = self.state["running_gradient"]
        gamma, big_lambda = (z * z).mean(0), (g * z).mean(0)
        self.state["running_gradient"] = nu * (1 - (1 - self.alpha) * gamma) + (1 - self.alpha) * big_lambda
        return y, (g - nu * z) / root, {"weight": (cotangent * z).sum(0), "bias": cotangent.sum(0)}

    def divide(self, x):
        before = self.state["running_square"]
        self.state["running_square"] = self.alpha * before + (1 - self.alpha) * (x * x).mean(0)
        root = (before + self.eps) ** 0.5
        return x / root, root

    def evaluate(self, x):
        return x / (self.state["running_square"] + self.eps) ** 0.5 * self.p["weight"] + self.p["bias"]


class OfficialPower(Power):
    """The authors' code: group scaling first, warm-up, two updates during it, the batch's root in the backward.

    `x` and `cotangent` hold the padded places too, which count in the means of the backward; `real` says which.
    """

    warmup = 10_000
    sees_padding = True

    def scaled(self, x):
        """Group scaling, one slice at a time."""
        size = x.shape[-1] // self.groups
        slices = [x[:, i * size : (i + 1) * size] for i in range(self.groups)]
        return torch.cat([part / ((part * part).mean(-1, keepdim=True) + self.eps) ** 0.5 for part in slices], dim=-1)

    def train(self, x, cotangent, real):
        x = x.detach().requires_grad_()
        scaled = self.scaled(x)
        used, own = self.squares(scaled[real].detach())
        z = scaled.detach() / (used + self.eps) ** 0.5
        # the code keeps the sum without momentum
        step = 1 - self.alpha
        ema_gz = self.state["running_gradient"] / step
        left = cotangent * self.p["weight"] - step * ema_gz * z
        if real.any():
            ema_gz = ema_gz + (left * z).sum(0) / len(x)
        self.state["running_gradient"] = step * ema_gz
        gradient = torch.autograd.grad(scaled, x, left / (own + self.eps) ** 0.5)[0]
        y = z * self.p["weight"] + self.p["bias"]
        return y, gradient, {"weight": (cotangent * z).sum(0), "bias": cotangent.sum(0)}

    def squares(self, x):
        """What the forward and the backward divide by the roots of, from the real tokens."""
        phi = self.state["running_square"]
        if not len(x):
            return phi, phi
        self.state["iterations_done"] = self.state["iterations_done"] + 1
        k, square = int(self.state["iterations_done"]), (x * x).mean(0)
        used = square if k <= self.warmup else phi
        if k < self.warmup:
            phi = phi * (k - 1) / k + square / k
        self.state["running_square"] = self.alpha * phi + (1 - self.alpha) * square
        return used, square

    def evaluate(self, x):
        return super().evaluate(self.scaled(x))


class Unified:
    """The authors' algorithm over the real tokens, its backward written out; the windows are lists."""

    eps = 1e-5
    outlier_before_full = False

    def __init__(self, parameters, momentum=0.1, window=4, warmup=4000, outlier_filtration=False):
        self.p, self.keep = parameters, 1 - momentum
        self.window, self.warmup, self.filtration = window, warmup, outlier_filtration
        width = parameters["weight"].numel()
        self.state = {
            "running_square": torch.ones(width).double(),
            "running_gradient": torch.zeros(width).double(),
            "iterations_done": torch.tensor(0),
            "window_squares": torch.zeros(window, width).double(),
            "window_gradients": torch.zeros(window, width).double(),
        }
        self.outliers = self.compensated = 0

    def put(self, name, k, value):
        rows = list(self.state[name])
        rows[k % self.window] = value
        self.state[name] = torch.stack(rows)

    def geometric(self):
        product = 1.0
        for row in self.state["window_squares"]:
            product = product * row
        return product ** (1 / self.window)

    def train(self, x, cotangent):
        if not len(x):
            return x, x, {name: torch.zeros_like(value) for name, value in self.p.items()}
        return self.step(x, cotangent, (x * x).mean(0))

    def step(self, x, cotangent, own):
        s = self.state
        k = int(s["iterations_done"]) + 1
        s["iterations_done"] = torch.tensor(k)
        running, spread = s["running_square"], s["window_squares"].sqrt().var()
        settled = k > self.window and k >= self.warmup
        outlier = self.window == 1
        self.put("window_squares", k, own)
        if self.filtration and (settled or (self.outlier_before_full and k >= self.warmup)):
            gap = s["window_squares"].mean(0) - self.geometric()
            if (gap > self.window * spread).any():
                self.put("window_squares", k, running)
                outlier = True
        square = self.geometric() if settled and not outlier else own
        s["running_square"] = self.keep * running + (1 - self.keep) * square
        ratio = torch.ones_like(own)
        if k > max(1000, self.warmup) and not outlier:
            ratio = (((square + self.eps) / (running + self.eps)) ** 0.5).clamp(0.2, 5)
        z = x / (square + self.eps) ** 0.5

        g = cotangent * self.p["weight"] * ratio
        gz, ema = (g * z).mean(0), s["running_gradient"]
        self.put("window_gradients", k, ema if outlier else gz)
        mean_gz = s["window_gradients"].sum(0) / self.window if settled and not outlier else gz
        s["running_gradient"] = self.keep * ema + (1 - self.keep) * mean_gz
        gradient = g - (mean_gz if outlier else s["running_gradient"]) * z
        self.outliers += outlier
        self.compensated += int((ratio != 1).any())
        parameters = {"weight": (cotangent * z * ratio).sum(0), "bias": cotangent.sum(0)}
        return z * self.p["weight"] + self.p["bias"], gradient / (square + self.eps) ** 0.5, parameters

    evaluate = Power.evaluate


class OfficialUnified(Unified):
    """The authors' code; `x` and `cotangent` hold the padded places too, which count in the means of the backward."""

    sees_padding = outlier_before_full = True

    def train(self, x, cotangent, real):
        if real.any():
            return self.step(x, cotangent, (x[real] * x[real]).mean(0))
        # what the running statistics give; they do not move
        root = (self.state["running_square"] + self.eps) ** 0.5
        z = x / root
        gradient = (cotangent * self.p["weight"] - self.state["running_gradient"] * z) / root
        parameters = {"weight": (cotangent * z).sum(0), "bias": cotangent.sum(0)}
        return z * self.p["weight"] + self.p["bias"], gradient, parameters


# kind -> (the reference, the options it is tried with)
RUNNING_REFERENCES = {
    "batch_norm": [(Batch, {}), (Batch, {"momentum": 0.3})],
    "regularized_bn": [(Regularized, {}), (Regularized, {"mean_penalty": 2.0, "deviation_penalty": 3.0})],
    "rep_bn": [(Rep, {"momentum": 0.3})],
    "progressive_rep_bn": [(ProgressiveRep, {"iterations": 3})],
    "power_norm": [
        (Power, {}),
        (Power, {"momentum": 0.3}),
        (OfficialPower, {"variant": "official"}),
        (OfficialPower, {"variant": "official", "warmup": 3, "groups": 4}),
        (OfficialPower, {"variant": "official", "warmup": 0}),
    ],
    "unified_norm": [
        (Unified, {}),
        (Unified, {"window": 1, "warmup": 2}),
        (Unified, {"window": 2, "warmup": 3, "momentum": 0.3}),
        (Unified, {"window": 2, "warmup": 1, "outlier_filtration": True}),
        (OfficialUnified, {"variant": "official"}),
        (OfficialUnified, {"variant": "official", "window": 2, "warmup": 3, "momentum": 0.3}),
        (OfficialUnified, {"variant": "official", "window": 2, "warmup": 1, "outlier_filtration": True}),
    ],
}
