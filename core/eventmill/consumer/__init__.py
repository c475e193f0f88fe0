"""The consumer: receive → decode → batch → insert → ack, until the shutdown. `consumer.py` connects the parts."""
