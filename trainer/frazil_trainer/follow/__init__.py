"""Learning while it collects: what people correct in a session becomes its next model.

- ``corrected`` gathers corrected micrographs from the stream, and keeps them where a restart finds them.
- ``lesson`` is one training: what is learnt from, what is kept out, and how well both models pick that.
- ``follower`` follows a stream, decides when to train, and tells how it goes.
"""
