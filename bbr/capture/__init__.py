"""What is to be stored: etcds asked, streamed, scanned, and compared with what is stored already."""
