"""The methods by name, and what each is for. Imports nothing heavy."""

CAMS = {  # of the grad-cam library
    "gradcam": "GradCAM: channels weighted by their mean gradient (Selvaraju et al. 2017)",
    "gradcam++": "GradCAM++: weighted by positive gradients (Chattopadhyay et al. 2018)",
    "xgradcam": "XGradCAM: gradients scaled by normalised activations (Fu et al. 2020)",
    "hirescam": "HiResCAM: gradient times activation at every position (Draelos and Carin 2020)",
    "layercam": "LayerCAM: positive gradients times activations, of the last two resolutions (Jiang et al. 2021)",
    "finercam": "FinerCAM: GradCAM of the class against the three it is most like (Zhang et al. 2025)",
    "eigencam": "EigenCAM: the first principal component of the activations; knows no class (Muhammad 2020)",
    "scorecam": "ScoreCAM: channels weighted by the score of the image masked by each (Wang et al. 2020); slow",
    "ablationcam": "AblationCAM: weighted by the fall of the score without each (Desai and Ramaswamy 2020); slow",
}
ATTENTION = {
    "rollout": "attention multiplied through the layers; knows no class (Abnar and Zuidema 2020)",
    "relevance": "attention weighted by its gradient, through the layers (Chefer et al. 2021)",
}
OTHERS = {
    "cam": "CAM: the head applied at every position of the last map (Zhou et al. 2016)",
    "contrast": "what speaks for the class and against the runner-up: signed HiResCAM of the two logits' difference",
    "gradients": "integrated gradients from a blurred image (Sundararajan et al. 2017); slow",
    "occlusion": "the fall of the score when a patch is grey, patch by patch (Zeiler and Fergus 2014); slow",
}
BASELINES = {
    "random": "smooth noise: the floor of every score",
    "centre": "a bump in the middle of the image, whatever is there",
    "oracle": "field guide only: what re-rendering the bird without each part shows",
}
METHODS = {**OTHERS, **CAMS, **ATTENTION, **BASELINES}
SLOW = ("scorecam", "ablationcam", "occlusion", "gradients")
ALWAYS = ("random", "centre")  # in every table; `oracle` joins them where the data set can re-render its images
SHOWN = (  # columns of a table, in order
    "pointing", "energy", "max_box_acc", "max_box_acc_v2", "telling", "insertion", "deletion", "road", "sanity",
    "sanity_floor", "sanity_flat", "funnybirds", "completeness", "correctness", "contrastivity", "seconds",
)  # fmt: skip


def text_table(figures: dict[str, dict[str, float]]) -> str:
    """A line a method, a column a score that any of them has."""
    shown = [score for score in SHOWN if any(score in row for row in figures.values())]
    wide = {score: max(7, len(score)) for score in shown}
    lines = [f"{'':11}" + " ".join(f"{score:>{wide[score]}}" for score in shown)]
    for name, row in figures.items():
        cells = (f"{row[score]:>{wide[score]}.3f}" if score in row else " " * wide[score] for score in shown)
        lines.append(f"{name:11}" + " ".join(cells))
    return "\n".join(line.rstrip() for line in lines)
