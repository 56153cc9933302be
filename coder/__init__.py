"""The diffusion engine: from a file with a hole to the text that fills it."""

import os
import warnings

# Both must be said before torch is there. Threads that spin long while they wait for each
# other turn 50 ms into seconds as soon as another program is busy; see docs/log.md.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# torch can do without numpy, and so can we; nobody needs to hear of it at every start.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)
