"""Serving: a model of this project over HTTP, with a page to chat, to compare and to rank."""
