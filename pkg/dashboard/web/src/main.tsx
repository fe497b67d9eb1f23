import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "./style.css";
import { Checkbox, MantineProvider, Notification, createTheme } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { TextContext, languages, preferred } from "./text";

const theme = createTheme({
  primaryColor: "blue",
  primaryShade: 8,
  autoContrast: true,
  defaultRadius: "md",
  components: {
    Checkbox: Checkbox.extend({ defaultProps: { radius: "sm" } }),
    Notification: Notification.extend({ defaultProps: { closeButtonProps: { "aria-label": languages[preferred()].close } } }),
  },
  fontFamily: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
  fontFamilyMonospace: "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
});

function Root() {
  const [language, setLanguage] = useState(preferred);
  document.documentElement.lang = language;
  return (
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <TextContext.Provider value={languages[language]}>
        <Notifications position="bottom-right" autoClose={6000} />
        <App
          language={language}
          setLanguage={(l) => {
            localStorage.setItem("kedge-language", l);
            setLanguage(l);
          }}
        />
      </TextContext.Provider>
    </MantineProvider>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Root />
  </StrictMode>,
);
