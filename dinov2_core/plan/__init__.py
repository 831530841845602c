"""What a run at full size would take, stage by stage, before anyone pays for it. Nothing here computes a stage."""
