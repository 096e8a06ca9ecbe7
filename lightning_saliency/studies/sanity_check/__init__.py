"""Do saliency maps depend on what a network has learnt?"""
