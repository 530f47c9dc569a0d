"""The networks of Glow and the modules that own its variables.

base           CouplingNetwork: the interface of coupling networks; ParameterModule: variables in nested dictionaries
layers         conv2d_zeros, linear_zeros, and the 3x3 convolution that sees the image's border
openai         OpenAINetwork, the coupling network of OpenAI's Glow: plain first, then fused
priors         SplitPrior, TopPrior: the Gaussians of the latents; Classifier
steps          FlowSteps: the K steps of a level, and their initialisation from data
products       the backward pass of the network in bfloat16, as matrix products
plus           the parts of the architecture "plus": bounded scales, whitened 1x1 convolutions, per-position Gaussians
noise          NoiseFlow: learned dequantisation noise
glow_tf2       the network and Gaussians of another program, samuelmat19/GLOW-tf2
architectures  ARCHITECTURES: the combinations of these that `GlowConfig.architecture` can name
"""
