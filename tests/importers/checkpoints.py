"""Checkpoints like the published ones, with random weights: names and shapes as released, nothing of their content."""

import torch

NOISE_FLOW_STEPS = (1, 3, 5, 7, 10, 12, 14, 16)
SRGB_STEPS = (3, 5, 8, 10, 13, 15, 18, 20)
TF_STEPS = (1, 2, 3, 4, 6, 7, 8, 9)


class Random:
    """Draws float32 tensors of a given size of values."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=0.3):
        return std * torch.randn(*shape, generator=self.generator)

    def positive(self, *shape):
        return 0.5 + torch.rand(*shape, generator=self.generator)


def batch_norm(random, name, width):
    return {
        f"{name}.weight": random.positive(width),
        f"{name}.bias": random.normal(width),
        f"{name}.running_mean": random.normal(width),
        f"{name}.running_var": random.positive(width),
        f"{name}.num_batches_tracked": torch.tensor(12),
    }


def coupling(random, name, seen):
    net = f"{name}._shift_and_log_scale"
    first, first_bias = random.normal(4, seen, 3, 3), random.normal(4)
    middle, middle_bias = random.normal(4, 4, 1, 1), random.normal(4)
    return {
        f"{net}.scale": random.normal(1),
        f"{net}.logs": random.normal(1, 4, 1, 1, std=0.1),
        f"{net}.conv2d_1.weight": first,
        f"{net}.conv2d_1.bias": first_bias,
        f"{net}.conv2d_2.weight": middle,
        f"{net}.conv2d_2.bias": middle_bias,
        f"{net}.net.0.weight": first,
        f"{net}.net.0.bias": first_bias,
        **batch_norm(random, f"{net}.net.1", 4),
        f"{net}.net.3.weight": middle,
        f"{net}.net.3.bias": middle_bias,
        **batch_norm(random, f"{net}.net.4", 4),
        f"{net}.conv2d_3.weight": random.normal(4, 5, 3, 3),
        f"{net}.conv2d_3.bias": random.normal(4),
    }


def conv1x1(random, name, channels):
    return {
        f"{name}.l": random.normal(channels, channels),
        f"{name}.log_s": random.normal(channels, std=0.1),
        f"{name}.u": random.normal(channels, channels),
        f"{name}.p": torch.eye(channels)[torch.randperm(channels, generator=random.generator)],
        f"{name}.sign_s": torch.tensor([1.0, -1.0, 1.0, -1.0][:channels]),
    }


def raw_flow(seed=0):
    """The tensors of a raw torch checkpoint's flow."""
    random = Random(seed)
    state = {
        "noise_flow.model.0._scale.cam_params": (1 + random.normal(3, 5, std=0.1)).double(),
        "noise_flow.model.0._scale.gain_params": (-3 + random.normal(5, std=0.1)).double(),
        "noise_flow.model.0._scale.beta1": torch.tensor(-4.5),
        "noise_flow.model.0._scale.beta2": torch.tensor(-1.0),
        "noise_flow.model.9.scale": torch.tensor(0.7),
    }
    for number in NOISE_FLOW_STEPS:
        state |= conv1x1(random, f"noise_flow.model.{number}", 4)
        state |= coupling(random, f"noise_flow.model.{number + 1}", 2)
    return state


def srgb_flow(seed=0):
    """The tensors of an sRGB checkpoint."""
    random = Random(seed)
    constant = torch.tensor(-5.545177)
    state = {
        "model.0.ldj_per_dim": constant,
        "data_pre_processing.0.ldj_per_dim": constant,
        "base_dist.buffer": torch.zeros(1),
    }
    for number in (2, 7, 12, 17):
        state |= {f"model.{number}.log_scale": random.normal(25, 3), f"model.{number}.bias": random.normal(25, 3)}
    for number in SRGB_STEPS:
        state |= conv1x1(random, f"model.{number}", 3)
        name = f"model.{number + 1}"
        state |= coupling(random, name, 4)
        state |= {f"{name}._encoder.initial_layer.weight": random.normal(5, 10)}
        state |= {f"{name}._encoder.initial_layer.bias": random.normal(5)}
        for i in range(3):
            block = f"{name}._encoder.blocks.{i}"
            for k in range(2):
                state |= batch_norm(random, f"{block}.batch_norm_layers.{k}", 5)
                state |= {f"{block}.linear_layers.{k}.weight": random.normal(5, 5)}
                state |= {f"{block}.linear_layers.{k}.bias": random.normal(5)}
        state |= {f"{name}._encoder.final_layer.weight": random.normal(1, 5)}
        state |= {f"{name}._encoder.final_layer.bias": random.normal(1)}
    return state


def tensorflow_flow(seed=0):
    """The variables of a TensorFlow checkpoint."""
    random = Random(seed)
    state = {
        "model/sdn_gain/beta1": torch.tensor([-4.3]),
        "model/sdn_gain/beta2": torch.tensor([-0.3]),
        "model/sdn_gain/cam_params": 1 + random.normal(3, 5, std=0.1),
        "model/sdn_gain/gain_params": -3 + random.normal(5, std=0.1),
        "model/sdn_gain/gain_val": torch.tensor([1.07]),
    }
    for number in range(10):
        state[f"level0/bijector{number}/rescaling_scale0"] = random.normal(1)[0]
    for k, number in enumerate(TF_STEPS):
        part, suffix = f"level0/bijector{number}/Conv2d_1x1_{number}", f"matpar_lu_conv2d_1x1_{number}_0"
        state[f"{part}/P_{suffix}"] = torch.eye(4)[torch.randperm(4, generator=random.generator)]
        state[f"{part}/L_vec_{suffix}"] = random.normal(6)
        state[f"{part}/U_vec_{suffix}"] = random.normal(6)
        state[f"{part}/log_S_{suffix}"] = random.normal(4, std=0.1)
        state[f"{part}/sign_S_{suffix}"] = torch.tensor([1.0, -1.0, -1.0, 1.0])
        net = "model/real_nvp_conv_template" + (f"_{k}" if k else "")
        for name, shape in (("1", (3, 3, 2, 4)), ("2", (1, 1, 4, 4))):
            state[f"{net}/l_{name}/W"], state[f"{net}/l_{name}/b"] = random.normal(*shape), random.normal(1, 1, 1, 4)
            state[f"{net}/bn_nvp_conv_{name}/mean"] = random.normal(4)
            state[f"{net}/bn_nvp_conv_{name}/var"] = random.positive(4)
        state[f"{net}/l_last/W"], state[f"{net}/l_last/b"] = random.normal(3, 3, 5, 4), random.normal(1, 1, 1, 4)
        state[f"{net}/l_last/logs"] = random.normal(1, 4, std=0.1)
    return state


def dncnn(channels=4, width=8, depth=4, seed=0):
    """The state dict of a released DnCNN."""
    random = Random(seed)
    state = {"dncnn.0.weight": random.normal(width, channels, 3, 3), "dncnn.0.bias": random.normal(width)}
    for i in range(depth - 2):
        state[f"dncnn.{2 + 3 * i}.weight"] = random.normal(width, width, 3, 3)
        state |= batch_norm(random, f"dncnn.{3 + 3 * i}", width)
    state[f"dncnn.{2 + 3 * (depth - 2)}.weight"] = random.normal(channels, width, 3, 3)
    return state


def unet(channels=4, seed=0):
    """The state dict of a released U-Net."""
    random = Random(seed)
    shapes = {
        "_block1.0": (48, channels), "_block1.2": (48, 48), "_block2.0": (48, 48), "_block3.0": (48, 48),
        "_block3.2": (48, 48), "_block4.0": (96, 96), "_block4.2": (96, 96), "_block4.4": (96, 96),
        "_block5.0": (96, 144), "_block5.2": (96, 96), "_block5.4": (96, 96), "_block6.0": (64, 96 + channels),
        "_block6.2": (32, 64), "_block6.4": (channels, 32),
    }  # fmt: skip
    state = {}
    for name, (out, inside) in shapes.items():
        state[f"{name}.weight"] = random.normal(out, inside, 3, 3, std=0.03)
        state[f"{name}.bias"] = random.normal(out, std=0.03)
    return state
