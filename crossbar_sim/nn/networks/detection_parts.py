"""The parts of Mask R-CNN. Imports torchvision: only `detection.py` imports this file."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign

from crossbar_sim.nn.networks.base import of_images

MAPS, HIDDEN = 48, 96
"""Of the small one: maps of the pyramid, and the width of its box head."""

ANCHORS = ((0.16, 0.25), (0.38, 0.56))
"""Of the small one: square roots of areas as shares of the side, for each level."""

TALL = (2.0, 3.0)
"""Heights of its anchors over their widths: people."""


class BoxHead(TwoMLPHead):
    """Two hidden layers with a dropout site after each; names of weights are torchvision's."""

    def __init__(self, inputs: int, hidden: int, rates: Sequence[float]) -> None:
        super().__init__(inputs, hidden)
        self.dropout6, self.dropout7 = nn.Dropout(rates[0]), nn.Dropout(rates[1])

    def forward(self, x: Tensor) -> Tensor:
        """Map pooled features (n, maps, 7, 7) to (n, hidden)."""
        x = self.dropout6(self.fc6(x.flatten(1)).relu())
        return self.dropout7(self.fc7(x).relu())


class Small(nn.Module):
    """Four stages of two convolutions, each with half the pixels, and a pyramid of the last two."""

    def __init__(self, width: int, rates: Sequence[float], normalisation: str | None) -> None:
        super().__init__()
        before = 3
        for i, rate in enumerate(rates, start=1):
            maps, stage = width << (i - 1), nn.Sequential()
            for j, n in enumerate((before, maps), start=1):
                conv = nn.Conv2d(n, maps, 3, 3 - j, 1, bias=normalisation is None)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                stage.add_module(f"conv{j}", conv)
                stage.add_module(f"norm{j}", _normalisation(normalisation)(maps))
                stage.add_module(f"relu{j}", nn.ReLU())
            stage.add_module("dropout", nn.Dropout2d(rate))
            self.add_module(f"stage{i}", stage)
            before = maps
        self.pyramid = FeaturePyramidNetwork([4 * width, 8 * width], MAPS)
        self.out_channels = MAPS

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (b, 3, h, w) to features of 1/8 and 1/16 of their sides, under "0" and "1"."""
        x = self.get_submodule("stage2")(self.get_submodule("stage1")(x))
        fine = self.get_submodule("stage3")(x)
        levels = OrderedDict([("0", fine), ("1", self.get_submodule("stage4")(fine))])
        found: dict[str, Tensor] = self.pyramid(levels)
        return found


def small(
    side: int, width: int, classes: int, detections: int, rates: Sequence[float], normalisation: str | None
) -> MaskRCNN:
    """For one CPU core: fewer maps, proposals and samples than the full one."""
    sizes = tuple(tuple(round(share * side) for share in level) for level in ANCHORS)
    detector = MaskRCNN(
        Small(width, rates[:4], normalisation),
        min_size=side,
        max_size=side,
        rpn_anchor_generator=AnchorGenerator(sizes, (TALL,) * len(sizes)),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=60,
        rpn_post_nms_top_n_test=40,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 5, 2),
        box_head=BoxHead(MAPS * 25, HIDDEN, rates[5:]),
        box_predictor=FastRCNNPredictor(HIDDEN, classes),
        box_detections_per_img=detections,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2),
        mask_head=MaskRCNNHeads(MAPS, (32,), 1),
        mask_predictor=MaskRCNNPredictor(32, 32, classes),
    )
    detector.rpn.head.conv.add_module("dropout", nn.Dropout2d(rates[4]))
    return detector


def full(
    side: int, width: int, classes: int, detections: int, rates: Sequence[float], normalisation: str | None
) -> MaskRCNN:
    """torchvision's maskrcnn_resnet50_fpn: its layers, sizes and names of weights."""
    body = resnet50(weights=None, norm_layer=_normalisation(normalisation))
    for i, rate in enumerate(rates[:4], start=1):
        body.get_submodule(f"layer{i}").add_module("dropout", nn.Dropout2d(rate))
    levels = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, levels, [256, 512, 1024, 2048], 256)
    detector = MaskRCNN(
        backbone,
        classes,
        min_size=side,
        max_size=max(side, round(side * 1333 / 800)),
        box_head=BoxHead(256 * 49, 1024, rates[5:]),
        box_detections_per_img=detections,
    )
    detector.rpn.head.conv.add_module("dropout", nn.Dropout2d(rates[4]))
    return detector


def _normalisation(name: str | None) -> Callable[[int], nn.Module]:
    if name == "frozen":
        return FrozenBatchNorm2d
    return lambda channels: of_images(name, channels)
