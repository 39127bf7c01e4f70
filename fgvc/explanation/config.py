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
    "contrast": "what speaks for the class and against the runner-up: signed LayerCAM of the two logits' difference",
    "gradients": "integrated gradients from a blurred image, summed over colours (Sundararajan et al. 2017)",
    "occlusion": "the fall of the score when a patch is grey, patch by patch (Zeiler and Fergus 2014); slow",
}
BASELINES = {
    "random": "smooth noise: the floor of every score",
    "centre": "a bump in the middle of the image, whatever is there",
    "oracle": "field guide only: what re-rendering the bird without each part shows",
}
METHODS = {**OTHERS, **CAMS, **ATTENTION, **BASELINES}
SLOW = ("scorecam", "ablationcam", "occlusion")
ALWAYS = ("random", "centre")  # in every table; `oracle` joins them where the data set can re-render its images
