"""From this machine to a Raspberry Pi, over the user's own ssh and rsync."""

from picoformer.deployment.deploy import Deployed, deploy
from picoformer.deployment.plan import Plan, prepare
from picoformer.deployment.steps import Step, as_text, way_back

__all__ = ["Deployed", "Plan", "Step", "as_text", "deploy", "prepare", "way_back"]
