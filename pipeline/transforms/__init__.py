"""Transforms: random, differentiable views of the images, drawn per sample and step.

`draw_views` of `views` draws all that is random of a whole ascent at once, as one small tensor of
numbers; `see` shows the images through the numbers of one step. What happens on the way is a chain
of parts: one warp for all that moves pixels, then colours, blur, noise and a hole. A part whose
range is neutral takes no number and no time.
"""
