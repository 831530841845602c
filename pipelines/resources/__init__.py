"""What assets are given: the data lake, the engine that runs shards, and the experiment tracker."""
