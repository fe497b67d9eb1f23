import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// Relative addresses: the page also lives below the path of a proxy.
export default defineConfig({
  base: "./",
  plugins: [react()],
  build: {
    outDir: "dist",
    target: "es2022",
    modulePreload: { polyfill: false }, // it would be an inline script
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1000, // scripts/pack.mjs limits the first load
  },
});
