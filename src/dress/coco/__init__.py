"""The 80 object names of COCO: mentions in text, CHAIR's words."""
