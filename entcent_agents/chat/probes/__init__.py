"""What a chat server can do, one small question at a time; `chat/capabilities.py` asks them all."""
