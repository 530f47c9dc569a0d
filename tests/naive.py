"""OpenAI's Glow in numpy, written from its equations, for comparison.

Outputs that alternate there (shift and scale, mean and log-scale of a split) are halves, as in `glow_tf`.
"""

import numpy as np

from glow_tf.config import GlowConfig


def squeeze(images):
    """out[h, w, 4c + 2dy + dx] = in[2h + dy, 2w + dx, c]."""
    b, h, w, c = images.shape
    out = np.zeros((b, h // 2, w // 2, 4 * c))
    for channel in range(c):
        for dy in range(2):
            for dx in range(2):
                out[..., 4 * channel + 2 * dy + dx] = images[:, dy::2, dx::2, channel]
    return out


def edge_conv(images, kernel, edge):
    """3x3 convolution of the image with a border of zeros and a last channel that is one on the border."""
    b, h, w, c = images.shape
    padded = np.zeros((b, h + 2, w + 2, c + 1))
    padded[..., c] = 1
    padded[:, 1:-1, 1:-1, c] = 0
    padded[:, 1:-1, 1:-1, :c] = images
    whole = np.concatenate([kernel, edge[:, :, np.newaxis]], axis=2)
    return sum(padded[:, dy : dy + h, dx : dx + w] @ whole[dy, dx] for dy in range(3) for dx in range(3))


def conv2d_zeros(images, p):
    return (edge_conv(images, p["kernel"], p["edge"]) + p["bias"]) * np.exp(3 * p["log_scale"])


def log_normal(values, mean, log_scale):
    density = -0.5 * (np.log(2 * np.pi) + 2 * log_scale + (values - mean) ** 2 / np.exp(2 * log_scale))
    return density.sum(axis=(1, 2, 3))


class NaiveGlow:
    """The flow of `GlowConfig` with the values of `named_variables()`.

    After `encode`, `standardised` holds the input of every ReLU and of every permutation of that call.
    """

    def __init__(self, config: GlowConfig, values):
        self.config = config
        self.values = {name: value.copy() for name, value in values.items()}
        self.initializing = False

    def initialize(self, images):
        """Data-dependent initialisation: one pass in which each actnorm is set before its output is used."""
        self.initializing = True
        self.encode(images)
        self.initializing = False

    def encode(self, images, labels=None):
        """(log density [B] in nats, [eps of level 0, ..., eps of the top])."""
        self.standardised = []
        z, objective, eps = squeeze(images), 0.0, []
        for level in range(self.config.num_levels):
            for k in range(self.config.num_steps):
                z, log_det = self.step(z, f"level{level}", k)
                objective = objective + log_det
            if level < self.config.num_levels - 1:
                z, leaving = np.split(z, 2, axis=-1)
                h = conv2d_zeros(z, self.part(f"split{level}/"))
                mean, raw = np.split(h, 2, axis=-1)
                log_scale = self.split_log_scale(raw)
                objective = objective + log_normal(leaving, mean, log_scale)
                eps.append((leaving - mean) / np.exp(log_scale))
                z = squeeze(z)
        mean, log_scale = self.top(z, labels)
        return objective + log_normal(z, mean, log_scale), [*eps, (z - mean) / np.exp(log_scale)]

    def top(self, z, labels):
        b, h, w, n = z.shape
        outputs = np.zeros((b, h, w, 2 * n))
        p = self.part("top/")
        if self.config.learned_top:
            outputs += conv2d_zeros(np.zeros((b, h, w, 2 * n)), p | {"kernel": np.zeros((3, 3, 2 * n, 2 * n))})
        if self.config.num_classes:
            one_hot = np.eye(self.config.num_classes)[labels]
            embedded = (one_hot @ p["class_kernel"] + p["class_bias"]) * np.exp(3 * p["class_log_scale"])
            outputs += embedded.reshape([b, *self.class_shape(h, w), 2 * n])
        return outputs[..., :n], outputs[..., n:]

    def class_shape(self, h, w):
        """The positions at which a class has a Gaussian of its own."""
        return 1, 1

    def log_scale(self, raw):
        return -np.log(1 + np.exp(-(raw + 2.0)))

    def split_log_scale(self, raw):
        return raw

    def step(self, z, level, k):
        z, log_det = self.actnorm(z, f"{level}/actnorm/", "", k)
        self.standardised.append(z)
        h, w, c = z.shape[1:]
        if self.config.permutation == "conv1x1":
            weight = dense(self.part(f"{level}/conv1x1/", k))
            z = z @ weight
            log_det += h * w * np.linalg.slogdet(weight)[1]
        else:
            z = z[..., self.part(f"{level}/permutation/", k)["indices"]]
        z1, z2 = z[..., : c // 2], z[..., c // 2 :]
        out = self.network(z1, f"{level}/coupling/", k)
        if self.config.coupling == "additive":
            z2 = z2 + out
        else:
            shift, raw = np.split(out, 2, axis=-1)
            log_scale = self.log_scale(raw)
            z2 = (z2 + shift) * np.exp(log_scale)
            log_det = log_det + log_scale.sum(axis=(1, 2, 3))
        return np.concatenate([z1, z2], axis=-1), log_det

    def network(self, z1, prefix, k):
        p = self.part(prefix, k)
        hidden = edge_conv(z1, p["conv1_kernel"], p["conv1_edge"])
        hidden, _ = self.actnorm(hidden, prefix, "actnorm1_", k)
        self.standardised.append(hidden)
        hidden, _ = self.actnorm(np.maximum(hidden, 0) @ p["conv2_kernel"], prefix, "actnorm2_", k)
        self.standardised.append(hidden)
        last = {name.removeprefix("conv3_"): p[name] for name in p if name.startswith("conv3_")}
        return conv2d_zeros(np.maximum(hidden, 0), last)

    def actnorm(self, x, prefix, name, k):
        shift, log_scale = self.values[f"{prefix}{name}shift"], self.values[f"{prefix}{name}log_scale"]
        if self.initializing:
            shift[k] = -x.mean(axis=(0, 1, 2))
            std = np.sqrt(((x + shift[k]) ** 2).mean(axis=(0, 1, 2)))
            log_scale[k] = np.log(1 / (std + 1e-6)) / 3
        h, w = x.shape[1:3]
        return (x + shift[k]) * np.exp(3 * log_scale[k]), h * w * np.sum(3 * log_scale[k])

    def part(self, prefix, k=None):
        of_prefix = {n.removeprefix(prefix): v for n, v in self.values.items() if n.startswith(prefix)}
        return of_prefix if k is None else {name: value[k] for name, value in of_prefix.items()}


def dense(p):
    """P L (U + diag(s)), the matrix of a 1x1 convolution."""
    c = len(p["sign_s"])
    matrix = np.eye(c)[p["permutation"]]
    matrix = matrix @ (np.tril(p["lower"], -1) + np.eye(c))
    return matrix @ (np.triu(p["upper"], 1) + np.diag(p["sign_s"] * np.exp(p["log_abs_s"])))
