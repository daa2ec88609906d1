"""All use of Ray: joining or embedding a cluster, placement, training workers, their events and failures."""
