"""What is made of a finished run: fused scenes, exports, pictures, a look inside, a page in the browser."""
