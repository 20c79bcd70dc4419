"""The kernels that cnnext ships: one list for the build, the executor's registry, the tests and the benchmarks.

Plain data, without an import: setup.py reads it before anything is built.
"""

# Module (src/kernels/<module>.pyx, built as cnnext._native.<module>) -> the kernels that it exports.
KERNELS: dict[str, tuple[str, ...]] = {
    "activation": (
        "unary", "unary_backward", "prelu", "prelu_backward", "softmax", "softmax_backward", "log_softmax",
        "log_softmax_backward", "dropout",
    ),
    "elementwise": ("binary", "copy", "sum_pixels"),
    "reduce": ("sum_axes", "fold_axes"),
    "conv_direct": ("conv_direct", "conv_pack_weights", "conv_backward_weights", "sum_shards"),
    "conv_pixels": ("conv_pixels", "conv_pixels_backward_weights"),
    "conv_winograd": ("conv_winograd", "conv_winograd_src", "conv_winograd_weights", "conv_winograd_backward_weights"),
    "matmul": ("matmul_pack", "matmul"),
    "loss": (
        "cross_entropy", "cross_entropy_backward", "one_hot", "sum_squares", "squared_error", "squared_error_backward",
        "sum_losses",
    ),
    "resample": ("resample", "transpose"),
    "optimizer": ("accumulate", "sgd", "adam", "rmsprop", "lamb_direction", "lamb"),
    "conv_depthwise": ("conv_depthwise", "depthwise_backward_weights"),
    "locally_connected": ("locally_connected", "locally_connected_backward_data", "locally_connected_backward_weights"),
    "pool": ("pool", "pool_backward", "global_avg"),
}
