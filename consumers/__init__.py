"""What reads the gateway's messages and acts on them. Consumers know `messages` and nothing else of this project."""
