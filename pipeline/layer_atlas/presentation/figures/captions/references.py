"""The works that figures and their methods cite by author and year."""

REFERENCES = {
    "Bar-Joseph et al. 2001": "Fast optimal leaf ordering for hierarchical clustering. "
    "Bioinformatics 17 (suppl. 1), S22-S29.",
    "Burt & Adelson 1983": "The Laplacian pyramid as a compact image code. IEEE Transactions on "
    "Communications 31, 532-540.",
    "Carter et al. 2019": "Activation atlas. Distill, doi:10.23915/distill.00015.",
    "Dozat 2016": "Incorporating Nesterov momentum into Adam. ICLR workshop.",
    "Fel et al. 2023": "Unlocking feature visualization for deeper networks with magnitude "
    "constrained optimization. NeurIPS, arXiv:2306.06805.",
    "Gonzalez 1985": "Clustering to minimize the maximum intercluster distance. Theoretical "
    "Computer Science 38, 293-306.",
    "Hamblin et al. 2024": "Feature accentuation: revealing 'what' features respond to in natural "
    "images. arXiv:2402.10039.",
    "Kingma & Ba 2015": "Adam: a method for stochastic optimization. ICLR, arXiv:1412.6980.",
    "Liu & Nocedal 1989": "On the limited memory BFGS method for large scale optimization. "
    "Mathematical Programming 45, 503-528.",
    "Loshchilov & Hutter 2019": "Decoupled weight decay regularization. ICLR, arXiv:1711.05101.",
    "Mahendran & Vedaldi 2015": "Understanding deep image representations by inverting them. CVPR, "
    "arXiv:1412.0035.",
    "Mordvintsev et al. 2015": "Inceptionism: going deeper into neural networks. Google Research "
    "blog, 17 June 2015.",
    "Mordvintsev et al. 2018": "Differentiable image parameterizations. Distill, "
    "doi:10.23915/distill.00012.",
    "Nguyen et al. 2016": "Synthesizing the preferred inputs for neurons in neural networks via "
    "deep generator networks. NeurIPS, arXiv:1605.09304.",
    "Olah et al. 2017": "Feature visualization. Distill, doi:10.23915/distill.00007.",
    "Simonyan et al. 2014": "Deep inside convolutional networks: visualising image classification "
    "models and saliency maps. ICLR workshop, arXiv:1312.6034.",
}


def cited(text: str) -> list[str]:
    """The works that a text cites, in full."""
    return [f"{work}. {title}" for work, title in REFERENCES.items() if work in text]
