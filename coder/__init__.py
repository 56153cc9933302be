"""The diffusion engine: from a file with a hole to the text that fills it."""

import warnings

# torch can do without numpy, and so can we; nobody needs to hear of it at every start.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)
