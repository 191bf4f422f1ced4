"""The works that figures cite: of the method, of networks and of data sets.

Records own the works that they follow; those on networks and data sets are here. A text cites a
work by author and year, as in `(Olah et al. 2017)`, so that it serves Markdown and LaTeX alike.
"""

import re
from dataclasses import dataclass

from layer_atlas.config.recipe import Octaves, Regularizers
from layer_atlas.config.records import FAMILIES, Reference

_OF_FIGURES = (
    Reference(
        "Bar-Joseph et al. 2001",
        "Fast optimal leaf ordering for hierarchical clustering. Bioinformatics 17 (suppl. 1), "
        "S22-S29.",
    ),
    Reference(
        "Gonzalez 1985",
        "Clustering to minimize the maximum intercluster distance. Theoretical Computer Science "
        "38, 293-306.",
    ),
    Reference(
        "Kuhn 1955",
        "The Hungarian method for the assignment problem. Naval Research Logistics Quarterly 2, "
        "83-97.",
    ),
)
"""The works that figures themselves follow."""


@dataclass(frozen=True)
class Architecture:
    """A family of networks that are known by name."""

    pattern: str
    """Regular expression of the names that torchvision has; those of timm begin alike."""
    title: str
    """Name for readers, with the groups of the pattern."""
    work: Reference


_VIT = Reference(
    "Dosovitskiy et al. 2021",
    "An image is worth 16x16 words: transformers for image recognition at scale. ICLR, "
    "arXiv:2010.11929.",
)
_ARCHITECTURES = (
    Architecture(
        "alexnet",
        "AlexNet",
        Reference(
            "Krizhevsky 2014",
            "One weird trick for parallelizing convolutional neural networks. arXiv:1404.5997.",
        ),
    ),
    Architecture(
        r"vgg(\d+)(?:_bn)?",
        "VGG-{0}",
        Reference(
            "Simonyan & Zisserman 2015",
            "Very deep convolutional networks for large-scale image recognition. ICLR, "
            "arXiv:1409.1556.",
        ),
    ),
    Architecture(
        r"resnet(\d+)",
        "ResNet-{0}",
        Reference(
            "He et al. 2016",
            "Deep residual learning for image recognition. CVPR, arXiv:1512.03385.",
        ),
    ),
    Architecture(
        r"resnext(\d+)_(\d+x\d+d)",
        "ResNeXt-{0} ({1})",
        Reference(
            "Xie et al. 2017",
            "Aggregated residual transformations for deep neural networks. CVPR, arXiv:1611.05431.",
        ),
    ),
    Architecture(
        r"wide_resnet(\d+)_(\d)",
        "Wide ResNet-{0}-{1}",
        Reference("Zagoruyko & Komodakis 2016", "Wide residual networks. BMVC, arXiv:1605.07146."),
    ),
    Architecture(
        r"densenet(\d+)",
        "DenseNet-{0}",
        Reference(
            "Huang et al. 2017",
            "Densely connected convolutional networks. CVPR, arXiv:1608.06993.",
        ),
    ),
    Architecture(
        r"squeezenet(\d)_(\d)",
        "SqueezeNet {0}.{1}",
        Reference(
            "Iandola et al. 2016",
            "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size. "
            "arXiv:1602.07360.",
        ),
    ),
    Architecture(
        "googlenet",
        "GoogLeNet",
        Reference("Szegedy et al. 2015", "Going deeper with convolutions. CVPR, arXiv:1409.4842."),
    ),
    Architecture(
        "inception_v3",
        "Inception v3",
        Reference(
            "Szegedy et al. 2016",
            "Rethinking the inception architecture for computer vision. CVPR, arXiv:1512.00567.",
        ),
    ),
    Architecture(
        "mobilenet_v2",
        "MobileNetV2",
        Reference(
            "Sandler et al. 2018",
            "MobileNetV2: inverted residuals and linear bottlenecks. CVPR, arXiv:1801.04381.",
        ),
    ),
    Architecture(
        "mobilenet_v3_(large|small)",
        "MobileNetV3-{0}",
        Reference("Howard et al. 2019", "Searching for MobileNetV3. ICCV, arXiv:1905.02244."),
    ),
    Architecture(
        r"shufflenet_v2_x(\d)_(\d)",
        "ShuffleNet V2 {0}.{1}x",
        Reference(
            "Ma et al. 2018",
            "ShuffleNet V2: practical guidelines for efficient CNN architecture design. ECCV, "
            "arXiv:1807.11164.",
        ),
    ),
    Architecture(
        r"mnasnet(\d)_(\d+)",
        "MnasNet {0}.{1}",
        Reference(
            "Tan et al. 2019",
            "MnasNet: platform-aware neural architecture search for mobile. CVPR, "
            "arXiv:1807.11626.",
        ),
    ),
    Architecture(
        r"efficientnet_b(\d)",
        "EfficientNet-B{0}",
        Reference(
            "Tan & Le 2019",
            "EfficientNet: rethinking model scaling for convolutional neural networks. ICML, "
            "arXiv:1905.11946.",
        ),
    ),
    Architecture(
        "efficientnet_v2_([sml])",
        "EfficientNetV2-{0}",
        Reference(
            "Tan & Le 2021",
            "EfficientNetV2: smaller models and faster training. ICML, arXiv:2104.00298.",
        ),
    ),
    Architecture(
        r"regnet_([xy])_(\w+)",
        "RegNet-{0} {1}",
        Reference(
            "Radosavovic et al. 2020", "Designing network design spaces. CVPR, arXiv:2003.13678."
        ),
    ),
    Architecture(
        r"convnext_(tiny|small|base|large)",
        "ConvNeXt-{0}",
        Reference("Liu et al. 2022", "A ConvNet for the 2020s. CVPR, arXiv:2201.03545."),
    ),
    Architecture(r"vit_([blh])_(\d+)", "ViT-{0}/{1}", _VIT),
    Architecture(r"vit_(tiny|small|base|large|huge)_patch(\d+)", "ViT-{0}/{1}", _VIT),
    Architecture(
        "swin_([tsb])",
        "Swin-{0}",
        Reference(
            "Liu et al. 2021",
            "Swin Transformer: hierarchical vision transformer using shifted windows. ICCV, "
            "arXiv:2103.14030.",
        ),
    ),
    Architecture(
        "maxvit_([a-z]+)",
        "MaxViT-{0}",
        Reference(
            "Tu et al. 2022", "MaxViT: multi-axis vision transformer. ECCV, arXiv:2204.01697."
        ),
    ),
)
_TIMM = Reference("Wightman 2019", "PyTorch image models. doi:10.5281/zenodo.4414861.")

_DATASETS = {
    "ImageNet": Reference(
        "Russakovsky et al. 2015",
        "ImageNet large scale visual recognition challenge. International Journal of Computer "
        "Vision 115, 211-252.",
    ),
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100"),
        Reference(
            "Krizhevsky 2009",
            "Learning multiple layers of features from tiny images. Technical report, University "
            "of Toronto.",
        ),
    ),
    "STL10": Reference(
        "Coates et al. 2011",
        "An analysis of single-layer networks in unsupervised feature learning. AISTATS.",
    ),
    "Places365": Reference(
        "Zhou et al. 2018",
        "Places: a 10 million image database for scene recognition. IEEE Transactions on Pattern "
        "Analysis and Machine Intelligence 40, 1452-1464.",
    ),
    **dict.fromkeys(
        ("CocoDetection", "CocoCaptions"),
        Reference(
            "Lin et al. 2014",
            "Microsoft COCO: common objects in context. ECCV, arXiv:1405.0312.",
        ),
    ),
    "DTD": Reference("Cimpoi et al. 2014", "Describing textures in the wild. CVPR."),
    "MNIST": Reference(
        "LeCun et al. 1998",
        "Gradient-based learning applied to document recognition. Proceedings of the IEEE 86, "
        "2278-2324.",
    ),
    "FashionMNIST": Reference(
        "Xiao et al. 2017",
        "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms. "
        "arXiv:1708.07747.",
    ),
}
"""By class of `torchvision.datasets`."""

AUTHORS = {
    "Bar-Joseph et al. 2001": "Bar-Joseph, Ziv and Gifford, David K. and Jaakkola, Tommi S.",
    "Burt & Adelson 1983": "Burt, Peter J. and Adelson, Edward H.",
    "Carter et al. 2019": "Carter, Shan and Armstrong, Zan and Schubert, Ludwig and Johnson, Ian "
    "and Olah, Chris",
    "Cimpoi et al. 2014": "Cimpoi, Mircea and Maji, Subhransu and Kokkinos, Iasonas and Mohamed, "
    "Sammy and Vedaldi, Andrea",
    "Coates et al. 2011": "Coates, Adam and Ng, Andrew and Lee, Honglak",
    "Dosovitskiy et al. 2021": "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and "
    "Weissenborn, Dirk and Zhai, Xiaohua and Unterthiner, Thomas and Dehghani, Mostafa and "
    "Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and Uszkoreit, Jakob and Houlsby, "
    "Neil",
    "Dozat 2016": "Dozat, Timothy",
    "Fel et al. 2023": "Fel, Thomas and Boissin, Thibaut and Boutin, Victor and Picard, Agustin "
    "and Novello, Paul and Colin, Julien and Linsley, Drew and Rousseau, Tom and Cadène, Rémi and "
    "Goetschalckx, Lore and Gardes, Laurent and Serre, Thomas",
    "Goh et al. 2021": "Goh, Gabriel and Cammarata, Nick and Voss, Chelsea and Carter, Shan and "
    "Petrov, Michael and Schubert, Ludwig and Radford, Alec and Olah, Chris",
    "Gonzalez 1985": "Gonzalez, Teofilo F.",
    "Görgün et al. 2025": "Görgün, Ada and Schiele, Bernt and Fischer, Jonas",
    "Hamblin et al. 2024": "Hamblin, Chris and Fel, Thomas and Saha, Srijani and Konkle, Talia and "
    "Alvarez, George",
    "He et al. 2016": "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
    "Howard et al. 2019": "Howard, Andrew and Sandler, Mark and Chu, Grace and Chen, Liang-Chieh "
    "and Chen, Bo and Tan, Mingxing and Wang, Weijun and Zhu, Yukun and Pang, Ruoming and "
    "Vasudevan, Vijay and Le, Quoc V. and Adam, Hartwig",
    "Huang et al. 2017": "Huang, Gao and Liu, Zhuang and van der Maaten, Laurens and Weinberger, "
    "Kilian Q.",
    "Iandola et al. 2016": "Iandola, Forrest N. and Han, Song and Moskewicz, Matthew W. and "
    "Ashraf, Khalid and Dally, William J. and Keutzer, Kurt",
    "Kingma & Ba 2015": "Kingma, Diederik P. and Ba, Jimmy",
    "Krizhevsky 2009": "Krizhevsky, Alex",
    "Krizhevsky 2014": "Krizhevsky, Alex",
    "LeCun et al. 1998": "LeCun, Yann and Bottou, Léon and Bengio, Yoshua and Haffner, Patrick",
    "Kuhn 1955": "Kuhn, Harold W.",
    "Lin et al. 2014": "Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and "
    "Perona, Pietro and Ramanan, Deva and Dollár, Piotr and Zitnick, C. Lawrence",
    "Liu & Nocedal 1989": "Liu, Dong C. and Nocedal, Jorge",
    "Liu et al. 2021": "Liu, Ze and Lin, Yutong and Cao, Yue and Hu, Han and Wei, Yixuan and "
    "Zhang, Zheng and Lin, Stephen and Guo, Baining",
    "Liu et al. 2022": "Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph "
    "and Darrell, Trevor and Xie, Saining",
    "Loshchilov & Hutter 2019": "Loshchilov, Ilya and Hutter, Frank",
    "Ma et al. 2018": "Ma, Ningning and Zhang, Xiangyu and Zheng, Hai-Tao and Sun, Jian",
    "Mahendran & Vedaldi 2015": "Mahendran, Aravindh and Vedaldi, Andrea",
    "Mordvintsev et al. 2015": "Mordvintsev, Alexander and Olah, Christopher and Tyka, Mike",
    "Mordvintsev et al. 2018": "Mordvintsev, Alexander and Pezzotti, Nicola and Schubert, Ludwig "
    "and Olah, Chris",
    "Nguyen et al. 2016": "Nguyen, Anh and Dosovitskiy, Alexey and Yosinski, Jason and Brox, "
    "Thomas and Clune, Jeff",
    "Nguyen et al. 2016b": "Nguyen, Anh and Yosinski, Jason and Clune, Jeff",
    "Olah et al. 2017": "Olah, Chris and Mordvintsev, Alexander and Schubert, Ludwig",
    "Radosavovic et al. 2020": "Radosavovic, Ilija and Kosaraju, Raj Prateek and Girshick, Ross "
    "and He, Kaiming and Dollár, Piotr",
    "Russakovsky et al. 2015": "Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan "
    "and Satheesh, Sanjeev and Ma, Sean and Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya "
    "and Bernstein, Michael and Berg, Alexander C. and Fei-Fei, Li",
    "Sandler et al. 2018": "Sandler, Mark and Howard, Andrew and Zhu, Menglong and Zhmoginov, "
    "Andrey and Chen, Liang-Chieh",
    "Simonyan & Zisserman 2015": "Simonyan, Karen and Zisserman, Andrew",
    "Simonyan et al. 2014": "Simonyan, Karen and Vedaldi, Andrea and Zisserman, Andrew",
    "Smilkov et al. 2017": "Smilkov, Daniel and Thorat, Nikhil and Kim, Been and Viégas, Fernanda "
    "and Wattenberg, Martin",
    "Sundararajan et al. 2017": "Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi",
    "Szegedy et al. 2015": "Szegedy, Christian and Liu, Wei and Jia, Yangqing and Sermanet, Pierre "
    "and Reed, Scott and Anguelov, Dragomir and Erhan, Dumitru and Vanhoucke, Vincent and "
    "Rabinovich, Andrew",
    "Szegedy et al. 2016": "Szegedy, Christian and Vanhoucke, Vincent and Ioffe, Sergey and "
    "Shlens, Jonathon and Wojna, Zbigniew",
    "Tan & Le 2019": "Tan, Mingxing and Le, Quoc V.",
    "Tan & Le 2021": "Tan, Mingxing and Le, Quoc V.",
    "Tan et al. 2019": "Tan, Mingxing and Chen, Bo and Pang, Ruoming and Vasudevan, Vijay and "
    "Sandler, Mark and Howard, Andrew and Le, Quoc V.",
    "Tu et al. 2022": "Tu, Zhengzhong and Talebi, Hossein and Zhang, Han and Yang, Feng and "
    "Milanfar, Peyman and Bovik, Alan and Li, Yinxiao",
    "Wightman 2019": "Wightman, Ross",
    "Xiao et al. 2017": "Xiao, Han and Rasul, Kashif and Vollgraf, Roland",
    "Xie et al. 2017": "Xie, Saining and Girshick, Ross and Dollár, Piotr and Tu, Zhuowen and He, "
    "Kaiming",
    "Yin et al. 2020": "Yin, Hongxu and Molchanov, Pavlo and Alvarez, Jose M. and Li, Zhizhong and "
    "Mallya, Arun and Hoiem, Derek and Jha, Niraj K. and Kautz, Jan",
    "Zagoruyko & Komodakis 2016": "Zagoruyko, Sergey and Komodakis, Nikos",
    "Zhou et al. 2018": "Zhou, Bolei and Lapedriza, Agata and Khosla, Aditya and Oliva, Aude and "
    "Torralba, Antonio",
}
"""All authors of each work, as BibTeX has them; a text cites but the first ones."""


# --- networks and data sets ----------------------------------------------------------------------


def known_references() -> list[Reference]:
    """List every work that a text may cite, in order."""
    records = [record for family in FAMILIES.values() for record in family.choices.values()]
    records += [Octaves, Regularizers]
    works = {work for record in records for work in record.references}
    works |= {architecture.work for architecture in _ARCHITECTURES}
    works |= {*_OF_FIGURES, *_DATASETS.values(), _TIMM}
    return sorted(works, key=lambda work: work.cite)


def architecture_title(source: str) -> str:
    """Name the architecture of a network for readers, as far as it is known.

    >>> architecture_title("torchvision/squeezenet1_1"), architecture_title("timm/resnet18.a1")
    ('SqueezeNet 1.1', 'resnet18.a1')
    """
    library, _, name = source.rpartition("/")
    for architecture in _ARCHITECTURES if library == "torchvision" else ():
        if found := re.fullmatch(architecture.pattern, name):
            return architecture.title.format(*map(_capitalised, found.groups()))
    return name


def _capitalised(word: str) -> str:
    """A size in capitals if it is a letter, else capitalised if it is a word: `B`, `Tiny`."""
    return word.upper() if len(word) == 1 else word.capitalize() if word.isalpha() else word


def network_works(source: str) -> list[Reference]:
    """The works on a network of torchvision or timm, as far as they are known."""
    library, _, name = source.rpartition("/")
    if library not in ("torchvision", "timm"):
        return []
    # Names of timm say more than the architecture: `resnet18.a1_in1k`.
    end = "" if library == "torchvision" else r"(?![a-z\d])"
    match = re.fullmatch if library == "torchvision" else re.match
    works = [a.work for a in _ARCHITECTURES if match(a.pattern + end, name)]
    return [*works[:1], *([_TIMM] if library == "timm" else [])]


def dataset_works(source: str) -> list[Reference]:
    """The works on a data set, by the kind and name that an atlas has of it."""
    kind, _, name = source.partition(" ")
    return [_DATASETS[name]] if kind == "torchvision" and name in _DATASETS else []


def cited(text: str) -> list[Reference]:
    """List the works that a text cites by author and year, in order of their names."""
    # `2016` is no citation where the text has `2016b`.
    return [w for w in known_references() if re.search(rf"{re.escape(w.cite)}(?!\w)", text)]
