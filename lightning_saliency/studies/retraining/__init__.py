"""What the studies that train networks anew share: data, networks, training, cells, costs."""
