"""What was measured in brains while words were heard, as labelled arrays; and one listener who is simulated.

They stand among the probes: a response is what a probe reads, no model makes it, and nothing here needs a tensor.
Nothing is downloaded and nothing unpickled. A loader takes a folder, else looks where ``NEXTLENS_DATA`` points.
"""
