"""``hfcnn benchmark``: what products, iterations and predictions cost, beside what torch and peers take."""
