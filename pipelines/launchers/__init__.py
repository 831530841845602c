"""Who starts the processes of a training, and who carries a stage to a cluster. The training itself knows neither."""
